"""What a text or a value of a column stands for."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trillium.tables.numbers import are_numbers, is_missing, number, numbers_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5.0),
        (" -.5\t", -0.5),
        ("+4.e-1", 0.4),
        ("1E3", 1000.0),
        ("1e400", math.inf),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
    ],
)
def test_numbers_are_written_in_digits(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["5_1", "1,000", "0x10", "½", "\u0665", "1 000", "e5", ".", "", " ", "five", "1e", "--1"],
)
def test_other_texts_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\s*\S*"):
        number(text)
    numbers, wrong = numbers_of([text, "1"])
    if is_missing(text):
        assert wrong is None
        assert math.isnan(numbers[0])
    else:
        assert wrong is not None
        assert wrong.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "value"), [("5,1", 5.1), ("5", 5.0), ("-,5e1", -5.0), ("inf", math.inf)]
)
def test_decimal_comma_is_one_where_it_is_said(text: str, value: float) -> None:
    assert number(text, ",") == value


@pytest.mark.parametrize("text", ["5.1", "1.000,5", "1,000,5"])
def test_point_is_none_where_the_comma_is_the_decimal_sign(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        number(text, ",")


def test_line_of_numbers_is_no_header() -> None:
    assert are_numbers(["5.1", " -1e3", "nan", "7"])
    assert not are_numbers(["5.1", "width"])
    assert not are_numbers(["5.1", ""])
    assert not are_numbers(["5.1", "7_0"])


class NAType:
    """Stands for the missing value of pandas, which has no truth value."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError


@pytest.mark.parametrize(
    "value", [None, "", "  ", NAN, np.datetime64("NaT", "s"), NAType(), np.ma.masked]
)
def test_missing_values_are_nan(value: Any) -> None:
    assert is_missing(value)
    numbers, wrong = numbers_of([value, 1])
    assert wrong is None
    np.testing.assert_array_equal(numbers, [NAN, 1])


def test_values_of_libraries_are_numbers() -> None:
    values = [True, np.bool_(False), 7, np.int8(-3), 0.5, np.float16(2), Decimal("1.25"), "3"]
    numbers, wrong = numbers_of(values)
    assert (numbers.tolist(), wrong) == ([1, 0, 7, -3, 0.5, 2, 1.25, 3], None)
    assert numbers_of([10**400, -(10**400)])[0].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("value", [1j, b"1", [1], np.datetime64("2024-01-01"), object()])
def test_values_of_other_kinds_are_none(value: Any) -> None:
    numbers, wrong = numbers_of([1, value])
    assert wrong is not None
    assert (numbers.tolist(), wrong.tolist()) == ([1, 0], [False, True])


@given(st.lists(st.text(max_size=6) | st.floats().map(repr), max_size=8))
def test_a_column_holds_what_each_of_its_texts_is(texts: list[str]) -> None:
    numbers, wrong = numbers_of(texts)
    for index, text in enumerate(texts):
        is_none = wrong is not None and bool(wrong[index])
        if is_missing(text):
            assert math.isnan(numbers[index])
            assert not is_none
            continue
        try:
            expected = number(text)
        except ValueError:
            assert is_none
        else:
            assert not is_none
            np.testing.assert_array_equal(numbers[index], expected)
