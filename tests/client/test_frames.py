"""Columns of a DataFrame reach the models under their own names, or the call is refused."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.client.conftest import LABELS, Caller
from trillium import InvalidRequest, Unreachable
from trillium.client import wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm")
FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]])
ORDERS = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]]


class Frame:
    """Stands for a DataFrame: names in `columns`, values by the protocol of arrays."""

    def __init__(self, columns: Any, values: Any) -> None:
        self.columns = columns
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self._values, dtype)


class Row(Frame):
    """Stands for a row of pandas: names in `index`."""

    def __init__(self, columns: Any, values: Any) -> None:
        super().__init__(None, values)
        self.index = columns


def arrow(columns: Sequence[str], values: Any) -> Any:
    return pa.Table.from_arrays(list(map(pa.array, values.T)), names=list(columns))


def batch(columns: Sequence[str], values: Any) -> Any:
    return pa.RecordBatch.from_arrays(list(map(pa.array, values.T)), names=list(columns))


@pytest.mark.parametrize("make", [Frame, arrow, batch])
@pytest.mark.parametrize("order", ORDERS)
async def test_columns_are_taken_by_name_in_any_order(
    caller: Caller, make: Any, order: list[int]
) -> None:
    table = make([NAMES[at] for at in order], FLOWERS[:, order])
    expected = (await caller("predict", FLOWERS)).probabilities
    np.testing.assert_array_equal((await caller("predict", table)).probabilities, expected)
    assert (await caller("classify", table)).labels.tolist() == list(LABELS)
    streamed = [each.probabilities async for each in caller.stream([table, FLOWERS])]
    np.testing.assert_array_equal(streamed, [expected, expected])


async def test_one_row_is_taken_by_name(caller: Caller) -> None:
    row = Row(NAMES[::-1], FLOWERS[2, ::-1])
    assert (await caller("classify", row)).labels.tolist() == ["virginica"]


async def test_rows_of_a_dataframe_in_a_list_are_taken_by_name(caller: Caller) -> None:
    series = [Row(NAMES[::-1], flower[::-1]) for flower in FLOWERS]
    named = namedtuple("named", NAMES[::-1])  # type: ignore[misc]
    tuples = [named(*flower[::-1]) for flower in FLOWERS]
    for rows in (series, tuple(series), tuples):
        assert (await caller("classify", rows)).labels.tolist() == list(LABELS)
    with pytest.raises(ValueError, match=r"row 1 has columns 'sepal_length_cm'.*, and row 0 has"):
        await caller("classify", [series[0], Row(NAMES, FLOWERS[1])])


async def test_columns_without_names_are_taken_as_they_stand(caller: Caller) -> None:
    nameless: list[Any] = [range(4), [], None]
    for columns in nameless:
        answer = await caller("classify", Frame(columns, FLOWERS))
        assert answer.labels.tolist() == list(LABELS)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (("a", "b", *NAMES[2:]), "no feature for: 'a', 'b'; expected 'sepal_length_cm'"),
        ((*NAMES, "kind"), "no feature for: 'kind'"),
        (NAMES[:3], "no column is named 'petal_width_cm'"),
        ((*NAMES, NAMES[0]), "more than one column is named 'sepal_length_cm'"),
        ((3, 2, 1, 0), "no feature for: '3', '2', '1', '0'"),
    ],
)
async def test_columns_of_other_names_are_refused_by_name(
    caller: Caller, columns: Any, sentence: str
) -> None:
    table = Frame(columns, np.ones((2, len(columns))))
    for method in ("predict", "classify"):
        with pytest.raises(ValueError, match=sentence):
            await caller(method, table)
    with pytest.raises(ValueError, match=sentence):
        _ = [each async for each in caller.stream([table])]


async def test_values_of_a_dataframe_are_still_checked_by_the_server(caller: Caller) -> None:
    table = Frame(NAMES[::-1], [[1.0, 2.0, 3.0, np.nan]])
    with pytest.raises(InvalidRequest, match="row 0, column 0 is nan"):
        await caller("predict", table)
    with pytest.raises(TypeError, match="rows must be numbers"):
        await caller("predict", Frame(NAMES, [["a"] * 4]))


async def test_names_that_cannot_be_asked_for_fail_the_call(calling: Any) -> None:
    async with calling("127.0.0.1:1") as nobody:
        with pytest.raises(Unreachable):
            await nobody("predict", Frame(NAMES, FLOWERS))
        with pytest.raises(Unreachable) as raised:
            _ = [each async for each in nobody.stream([Frame(NAMES, FLOWERS)])]
        assert raised.value.__notes__ == ["in batch 0, counted from 0"]


async def test_columns_stand_as_they_are_for_a_model_without_names() -> None:
    rows = wire.as_rows(FLOWERS)
    assert wire.by_name(Frame(NAMES[::-1], FLOWERS), rows, ()) is rows
    assert wire.by_name(Frame(range(4), FLOWERS), rows, NAMES) is rows
    numbered = wire.by_name(Frame(range(4), FLOWERS), rows, ("3", "2", "1", "0"))
    assert numbered.tolist() == rows[:, ::-1].tolist()
    with pytest.raises(ValueError, match="a name for each of 4 columns, got 1"):
        wire.by_name(Frame(["a"], FLOWERS), rows, NAMES)
