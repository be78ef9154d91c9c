"""Columns of tables by name: what is no feature, and in which order a model takes the others."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from trillium.tables.columns import (
    exact_places,
    index_columns,
    is_unnamed,
    listed,
    names_of,
    places,
    repeated,
)


def pandas(*index: Any) -> dict[bytes, bytes]:
    """What pandas writes into a Parquet file with these index columns."""
    return {b"pandas": json.dumps({"index_columns": index, "columns": []}).encode()}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (pandas("id"), ("id", "__index_level_0__")),
        (pandas("b", "id"), ("id", "b", "__index_level_0__")),
        (pandas({"kind": "range", "name": None, "start": 0, "stop": 9, "step": 1}), None),
        (pandas({"kind": "range", "name": "id"}), None),
        (pandas("of no column", 7, None), None),
        (pandas(), None),
        ({b"pandas": b"{}"}, None),
        ({b"pandas": b"[]"}, None),
        ({b"pandas": b'{"index_columns": null}'}, None),
        ({b"pandas": b'{"index_columns": 7}'}, None),
        ({b"pandas": b"\xff"}, None),
        ({b"pandas": b"[" * 100_000}, None),
        ({}, None),
        (None, None),
    ],
)
def test_index_is_what_pandas_says_and_what_has_its_name(
    metadata: dict[bytes, bytes] | None, expected: tuple[str, ...] | None
) -> None:
    names = ["id", "a", "b", "__index_level_0__", "__index_level__"]
    assert index_columns(names, metadata) == (expected or ("__index_level_0__",))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Unnamed: 0", True),
        ("Unnamed: 12", True),
        ("Unnamed: 0.1", True),
        ("Unnamed: 0.1.1", True),
        ("Unnamed: 3_level_0", True),
        ("Unnamed: none", False),
        ("unnamed", False),
        ("a Unnamed: 0", False),
    ],
)
def test_made_up_name_is_recognized(name: str, expected: bool) -> None:
    assert is_unnamed(name) is expected


def test_columns_are_found_by_name_in_any_order() -> None:
    assert places(["kind", "b", "a"], ["a", "b"]) == [2, 1]
    assert places(["kind", "kind", "a"], ["a"]) == [2]
    assert exact_places(["b", "a"], ["a", "b"]) == [1, 0]
    assert repeated(["a", "b", "a", "c", "c", "a"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["B", "A"],
            "no column is named 'a', 'b': expected .* 'a', 'b' in any order, got 'B', 'A'",
        ),
        (["a", "c"], "no column is named 'b'"),
        (["a", "b", "b"], "more than one column is named 'b'"),
    ],
)
def test_columns_that_are_missing_or_repeated_are_named(names: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        places(names, ["a", "b"])


def test_columns_without_a_feature_are_named_where_none_may_be() -> None:
    with pytest.raises(ValueError, match="no feature for: 'kind'; expected 'a', 'b' in any order"):
        exact_places(["a", "kind", "b"], ["a", "b"])


def test_list_of_names_fits_into_a_sentence() -> None:
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(number) for number in range(12)]).endswith("'9' and 2 more")
    assert len(listed(["x" * 1000] * 1000)) < 600


class Frame:
    """Stands for a DataFrame, whose names are in `columns`."""

    def __init__(self, columns: Any) -> None:
        self.columns = columns


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (Frame(["b", "a"]), ("b", "a")),
        (Frame([3, 1]), ("3", "1")),
        (Frame(range(3)), ("0", "1", "2")),
        (Frame([]), ()),
        (Frame(None), ()),
        (Frame(lambda: ["a"]), ()),
        (pa.table({"b": [1.0], "a": [2.0]}), ("b", "a")),
        ([[1.0, 2.0]], ()),
        ((1.0, 2.0), ()),
    ],
)
def test_names_are_those_that_a_table_has(table: Any, expected: tuple[str, ...]) -> None:
    assert names_of(table) == expected


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["sepal length (cm)", "b"], ["b", "sepal_length_cm"], [1, 0]),
        (["sepal_ (length)-cm"], ["sepal length cm"], [0]),
        (["Länge (cm)"], ["Länge_cm"], [0]),
        (["a b", "a_b"], ["a_b"], [1]),
    ],
)
def test_names_are_found_by_their_words(
    names: list[str], wanted: list[str], expected: list[int]
) -> None:
    assert places(names, wanted) == expected


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a b", "a-b"], ["a_b"]),
        (["a b"], ["a_b", "a-b"]),
        (["a_b"], ["a_b", "a b"]),
        (["A b"], ["a_b"]),
        (["()"], ["_"]),
    ],
)
def test_words_that_are_not_certain_are_no_match(names: list[str], wanted: list[str]) -> None:
    with pytest.raises(ValueError, match="no column is named"):
        places(names, wanted)


def test_many_names_take_no_time_for_each_pair() -> None:
    names = [f"feature {number}" for number in range(50_000)]
    wanted = [f"feature_{number}" for number in reversed(range(50_000))]
    assert exact_places(names, wanted) == list(reversed(range(50_000)))
    with pytest.raises(ValueError, match="no feature for: 'more'"):
        exact_places([*names, "more"], wanted)
