"""Decimals of float32 values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trillium.shortest import shortest


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(max_dims=2, max_side=8),
        elements=st.floats(width=32, allow_nan=False) | st.floats(0, 1, width=32),
    )
)
def test_decimals_are_those_that_numpy_finds_one_by_one(values: Any) -> None:
    found = shortest(values)
    assert found.shape == values.shape
    for value, wide in zip(values.ravel(), found.ravel().tolist(), strict=True):
        expected = float(str(value))
        assert np.float32(wide) == value
        assert len(repr(wide)) <= len(repr(expected))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5.1, "5.1"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e-45, "1e-45"),
        (7.1525574e-06, "7.1525574e-06"),
        (0.99407125, "0.99407125"),
        (0.99999994, "0.99999994"),
        (16777217.0, "16777216.0"),
        (3.4028235e38, "3.4028235e+38"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_decimals_are_short(value: float, text: str) -> None:
    assert repr(shortest(np.float32(value)).item()) == text


def test_every_probability_of_a_grid_is_short() -> None:
    values = np.random.default_rng(0).random(20_000, np.float32) ** 8
    found = shortest(values).tolist()
    expected = [float(str(value)) for value in values]
    assert all(np.float32(each) == value for each, value in zip(found, values, strict=True))
    assert [len(repr(each)) for each in found] == [len(repr(each)) for each in expected]
