"""Rows are checked once, completely, and packed as they travel."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trillium.errors import InvalidRequest
from trillium.rows import are_probabilities, from_block, from_lists
from trillium.violations import MAX_VIOLATIONS

NAN, INFINITY = float("nan"), float("inf")


def wrong_lists(
    rows: list[list[float]], feature_count: int | None = 2, max_rows: int = 100
) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        from_lists(rows, feature_count=feature_count, max_rows=max_rows)
    return {each.field: each.description for each in caught.value.violations}


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=20,
        )
    )
)
def test_sound_rows_arrive_bit_for_bit(rows: list[list[float]]) -> None:
    expected = np.array(rows, "<f4")
    block = from_lists(rows, feature_count=None, max_rows=20)
    assert block.array().tobytes() == expected.tobytes()
    assert block.array().shape == expected.shape
    again = from_block(
        block.row_count,
        block.column_count,
        block.data,
        feature_count=expected.shape[1],
        max_rows=20,
    )
    assert again == block


def test_no_rows_and_too_many_rows_are_told() -> None:
    assert "at least 1 row" in wrong_lists([])["instances"]
    assert wrong_lists([[1, 2]] * 101) == {"instances": "has 101 rows; at most 100 allowed"}


def test_every_row_of_another_width_is_told_with_its_number() -> None:
    assert wrong_lists([[1, 2], [1], [], [1, 2, 3]]) == {
        "instances[1].features": "row 1 has 1 features; expected 2",
        "instances[2].features": "row 2 has 0 features; expected 2",
        "instances[3].features": "row 3 has 3 features; expected 2",
    }


def test_rows_must_agree_when_nothing_is_known_of_the_model() -> None:
    assert wrong_lists([[1, 2, 3], [1, 2]], None) == {
        "instances[1].features": "row 1 has 2 features; expected 3"
    }
    assert wrong_lists([[], []], None).keys() == {"instances[0].features", "instances[1].features"}


def test_empty_first_row_is_the_wrong_one_and_not_the_others() -> None:
    assert wrong_lists([[], [1, 2], [3, 4]], None) == {
        "instances[0].features": "row 0 has 0 features; expected 2"
    }


def test_wrong_widths_and_odd_values_are_told_together() -> None:
    assert wrong_lists([[1], [NAN, 2], [3, -INFINITY]]).keys() == {
        "instances[0].features",
        "instances[1].features[0]",
        "instances[2].features[1]",
    }


@pytest.mark.parametrize("value", [1e39, -1e300, NAN, INFINITY])
def test_value_that_no_float32_holds_is_told(value: float) -> None:
    (violation,) = wrong_lists([[1, 2], [3, value]]).items()
    assert violation[0] == "instances[1].features[1]"
    assert str(value) in violation[1]


def test_violations_are_told_up_to_a_limit() -> None:
    assert len(wrong_lists([[NAN, NAN]] * 100)) == MAX_VIOLATIONS
    assert len(wrong_lists([[1]] * 100)) == MAX_VIOLATIONS
    with pytest.raises(InvalidRequest) as caught:
        from_block(100, 2, b"\xff" * 800, feature_count=2, max_rows=100)
    assert len(caught.value.violations) == MAX_VIOLATIONS


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=200), st.integers(1, 9)
)
def test_block_is_either_whole_or_refused(
    row_count: int, column_count: int, data: bytes, feature_count: int
) -> None:
    whole = column_count == feature_count and len(data) == row_count * column_count * 4
    refused = False
    try:
        block = from_block(row_count, column_count, data, feature_count=feature_count, max_rows=50)
        assert np.isfinite(block.array()).all()
        assert block.array().shape == (row_count, feature_count)
    except InvalidRequest:
        refused = True
    assert whole or refused


def test_probabilities_may_be_off_by_rounding_and_no_more() -> None:
    assert are_probabilities(np.array([0, 1, 0.5, -5e-5, 1.00005], np.float32))
    for odd in (-0.001, 1.001, NAN, INFINITY, -INFINITY):
        assert not are_probabilities(np.array([0.5, odd], np.float32))
    assert are_probabilities(np.array([], np.float32))


class Looked(Sequence[Sequence[float]]):
    """Rows that count how many of them are looked at."""

    def __init__(self, row: Sequence[float], count: int) -> None:
        self._row = row
        self._count = count
        self.looks = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError
        self.looks += 1
        return self._row


def test_rows_are_counted_before_any_is_looked_at() -> None:
    rows = Looked([], 10**6)
    with pytest.raises(InvalidRequest, match="1000000 rows; at most 100"):
        from_lists(rows, feature_count=2, max_rows=100)
    assert rows.looks == 0


@pytest.mark.parametrize("row", [[], [1.0], [NAN], [1.0, 2.0, 3.0]])
def test_violations_are_looked_for_up_to_their_limit(row: list[float]) -> None:
    rows = Looked(row, 10**6)
    with pytest.raises(InvalidRequest) as caught:
        from_lists(rows, feature_count=2, max_rows=10**6)
    assert len(caught.value.violations) == MAX_VIOLATIONS
    assert rows.looks <= MAX_VIOLATIONS + 2


def test_a_block_of_wrong_values_takes_little_memory_to_refuse() -> None:
    data = np.full((1000, 1000), np.nan, "<f4").tobytes()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            from_block(1000, 1000, data, feature_count=None, max_rows=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [each.description[:16] for each in caught.value.violations][::19] == [
        "row 0, column 0 ",
        "row 0, column 19",
    ]
    assert peak < len(data)
