"""What counts as a cliff in a cost that should be linear."""

from __future__ import annotations

import numpy as np

from bench.linear import STEEPEST, Point, cliffs, expected, weights


def _points(*units: tuple[int, float, float]) -> list[Point]:
    return [Point(size, 1 / cost, 1, cost, cost, memory) for size, cost, memory in units]


def test_a_linear_cost_with_a_fixed_part_has_no_cliff() -> None:
    sizes = (1, 4, 16, 64, 256)
    assert cliffs(_points(*((size, (100 + size) / size, 1.0) for size in sizes))) == []


def test_a_unit_that_becomes_dearer_is_a_cliff() -> None:
    (said,) = cliffs(_points((1, 1.0, 1.0), (4, 1.0, 1.0), (16, 1.6, 1.0)))
    assert said.startswith("16: time")
    assert said.endswith("at 4, its CPU 1.60 times")


def test_memory_is_judged_by_the_same_rule() -> None:
    assert cliffs(_points((1, 1.0, 1.0), (2, 1.0, STEEPEST))) == []
    (said,) = cliffs(_points((1, 1.0, 1.0), (2, 1.0, 1.01 * STEEPEST)))
    assert said.startswith("2: memory")


def test_synthetic_classes_are_different_and_always_the_same() -> None:
    rows = np.ones((2, 4), np.float32)
    scores = expected(rows, 3)
    assert scores.shape == (2, 3)
    assert len(set(scores[0].tolist())) == 3
    assert np.array_equal(weights(1)[0], weights(1)[0])
