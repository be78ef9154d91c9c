"""Combining what the classes answered: pure arithmetic, so every case that matters is tried."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.combine import UNDECIDED, Scores, combine, decide
from aggregator.lanes.ticket import Outcome
from trillium.errors import ClassFailure, Phase

LEVELS = (0.0, 0.5, 1.0)
CLASSES = ("a", "b", "c")
probability = st.floats(0, 1, width=32)


def failed(label: str) -> ClassFailure:
    return ClassFailure(label, "nowhere:1", Phase.CONNECT, "is gone", 0.0)


def answered(values: Sequence[float]) -> bytes:
    return np.array(values, "<f4").tobytes()


def first_of_the_best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[float] | None]:
    """Between one and six classes with as many rows each; None stands for a class that failed."""
    count = draw(st.integers(1, 6))
    rows = draw(st.integers(1, 20))
    column = st.lists(probability, min_size=rows, max_size=rows)
    drawn = draw(st.lists(st.none() | column, min_size=count, max_size=count))
    return {f"class{index}": values for index, values in enumerate(drawn)}


def outcomes_of(table: dict[str, list[float] | None]) -> list[Outcome | None]:
    return [
        failed(label) if values is None else answered(values) for label, values in table.items()
    ]


@given(columns())
def test_each_probability_stays_in_its_row_and_its_class(
    table: dict[str, list[float] | None],
) -> None:
    scores = combine(tuple(table), outcomes_of(table))
    present = {label: values for label, values in table.items() if values is not None}
    assert scores.class_labels == tuple(present)
    assert [each.class_label for each in scores.failures] == [
        label for label, values in table.items() if values is None
    ]
    for column, values in enumerate(present.values()):
        assert scores.probabilities[:, column].tolist() == values


@given(columns())
def test_the_winner_is_the_first_of_the_most_probable(
    table: dict[str, list[float] | None],
) -> None:
    whole = {label: values for label, values in table.items() if values is not None}
    if not whole:
        return
    scores = combine(tuple(whole), outcomes_of(dict(whole)))
    labels = decide(scores, tuple(whole))
    for row, (index, best) in enumerate(
        zip(labels.indexes.tolist(), labels.probabilities.tolist(), strict=True)
    ):
        values = [column[row] for column in whole.values()]
        assert index == first_of_the_best(values)
        assert best == max(values)


def test_probabilities_are_not_made_to_add_up_to_1() -> None:
    scores = combine(("a", "b"), [answered([0.9]), answered([0.8])])
    assert scores.probabilities.tolist() == [[pytest.approx(0.9), pytest.approx(0.8)]]


def test_a_class_that_nobody_waited_for_is_neither_answered_nor_failed() -> None:
    scores = combine(("a", "b", "c"), [answered([0.5]), None, failed("c")])
    assert scores.class_labels == ("a",)
    assert [each.class_label for each in scores.failures] == ["c"]


def test_no_class_answered_makes_no_rows() -> None:
    scores = combine(("a",), [failed("a")])
    assert scores.class_labels == ()
    assert scores.probabilities.shape == (0, 0)


def certain_winner(row: Sequence[float | None]) -> int | None:
    """The one class that wins whatever the missing ones would have said; None if there is none."""
    missing = [index for index, value in enumerate(row) if value is None]
    winners = set()
    for guess in itertools.product(LEVELS, repeat=len(missing)):
        complete = list(row)
        for index, value in zip(missing, guess, strict=True):
            complete[index] = value
        winners.add(first_of_the_best([value for value in complete if value is not None]))
    (winner, *others) = winners
    return None if others or row[winner] is None else winner


ROWS = [
    row
    for row in itertools.product((*LEVELS, None), repeat=len(CLASSES))
    if any(value is not None for value in row)
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_label_is_named_just_when_no_missing_class_could_have_won(
    row: tuple[float | None, ...],
) -> None:
    outcomes: list[Outcome | None] = [
        failed(label) if value is None else answered([value])
        for label, value in zip(CLASSES, row, strict=True)
    ]
    scores = combine(CLASSES, outcomes)
    labels = decide(scores, CLASSES)
    winner = certain_winner(row)
    if winner is None:
        assert labels.indexes.tolist() == [UNDECIDED]
        assert labels.probabilities.tolist() == [0]
    else:
        assert scores.class_labels[labels.indexes[0]] == CLASSES[winner]
        assert labels.probabilities.tolist() == [row[winner]]


def test_each_row_is_decided_by_itself() -> None:
    scores = Scores(
        ("a", "c"), np.array([[1, 0], [0.9, 0], [0, 1], [1, 1]], np.float32), (failed("b"),)
    )
    labels = decide(scores, CLASSES)
    assert labels.indexes.tolist() == [0, UNDECIDED, UNDECIDED, 0]
    assert labels.probabilities.tolist() == [1, 0, 0, 1]


def test_indexes_are_into_the_classes_that_answered() -> None:
    scores = combine(("a", "b", "c"), [failed("a"), answered([0.2]), answered([1])])
    assert scores.class_labels == ("b", "c")
    # "a" comes first and could have had 1 as well.
    assert decide(scores, ("a", "b", "c")).indexes.tolist() == [UNDECIDED]
    # In an order in which "a" is last it could not have won.
    last = combine(("b", "c", "a"), [answered([0.2]), answered([1]), failed("a")])
    assert decide(last, ("b", "c", "a")).indexes.tolist() == [1]
