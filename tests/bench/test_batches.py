"""Whether a run's batches are large enough, from given numbers."""

from __future__ import annotations

import math

import pytest

from bench.batches import Scored, mean_batch, shortfalls


def test_mean_batch_is_that_of_what_was_scored_between_two_looks() -> None:
    assert mean_batch(Scored(rows=1000, runs=1000), Scored(rows=1640, runs=1010), rows=1) == 64
    assert mean_batch(Scored(), Scored(rows=4096, runs=2), rows=1024) == 2


def test_without_a_batch_there_is_no_mean() -> None:
    assert math.isnan(mean_batch(Scored(rows=5, runs=5), Scored(rows=5, runs=5), rows=1))


@pytest.mark.parametrize(("load", "enough", "small"), [("c16", 11.3, 11.1), ("c64", 44.9, 44.7)])
def test_batches_below_seven_tenths_of_the_callers_are_too_small(
    load: str, enough: float, small: float
) -> None:
    assert shortfalls({("trillium", load): enough}) == []
    (sentence,) = shortfalls({("trillium", load): small})
    assert sentence.startswith(f"trillium at {load}: the mean batch is {small} of {load[1:]} ")


def test_each_figure_that_is_too_small_is_named_with_what_is_expected() -> None:
    means = {
        ("trillium", "c16"): 5.84,
        ("trillium", "c64"): 60.0,
        ("other", "c16"): 15.7,
        ("other", "c64"): 4.7,
    }
    assert shortfalls(means) == [
        "trillium at c16: the mean batch is 5.8 of 16 requests, expected at least 11.2",
        "other at c64: the mean batch is 4.7 of 64 requests, expected at least 44.8",
    ]


def test_batches_that_were_not_measured_do_not_pass() -> None:
    assert shortfalls({("trillium", "c64"): math.nan}) == [
        "trillium at c64: the mean batch was not measured"
    ]


def test_other_loads_may_have_batches_of_any_size() -> None:
    assert shortfalls({("trillium", "c1"): 1.0, ("trillium", "rows1024"): math.nan}) == []
