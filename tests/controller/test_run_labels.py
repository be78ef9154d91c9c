"""A run says how well a model did only where the labels are known to be those of its ensemble."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from controller.runs.labels import KnownClasses, LabelCheck
from controller.runs.results import Chunk

IRIS = KnownClasses("iris", ("setosa", "versicolor", "virginica"), are_all=True)
SOME = KnownClasses("iris", ("setosa", "versicolor"), are_all=False)
OWN = KnownClasses("", ("setosa",), are_all=False)


def checked(classes: KnownClasses, *chunks: Sequence[str] | None) -> LabelCheck:
    check, first = LabelCheck("setosa", classes), 0
    for labels in chunks:
        count = 1 if labels is None else len(labels)
        values = np.zeros(count, np.float32)
        check = check.plus(Chunk(first, values, None if labels is None else tuple(labels)))
        first += count
    return check


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (IRIS, ["setosa", "versicolor", "virginica"]),
        (IRIS, ["versicolor", "virginica"]),
        (IRIS, ["setosa", "rest"]),
        (IRIS, ["rest"]),
        (SOME, ["versicolor"]),
        (SOME, ["setosa", "sibirica"]),
        (OWN, ["setosa", "anything"]),
        (OWN, ["rest"]),
    ],
)
def test_labels_of_the_ensemble_can_be_evaluated(classes: KnownClasses, labels: list[str]) -> None:
    assert checked(classes, labels).problem == ""
    assert checked(classes, labels[:1], labels[1:]) == checked(classes, labels)


@pytest.mark.parametrize(
    ("classes", "labels", "sentence"),
    [
        (IRIS, ["0", "1"], "no row's label is a class of the ensemble 'iris': expected 'setosa'"),
        (IRIS, ["Setosa"], "got 'Setosa'; label rows by class, or 'rest' for any other"),
        (IRIS, ["setosa", "Setosa", "rest"], "1 of 3 rows have labels that are no class"),
        (IRIS, ["setosa", "sibirica"], "1 of 2 rows .* got 'sibirica'"),
        (SOME, ["versicolor", "sibirica"], "1 of 2 rows .* expected 'setosa', 'versicolor'"),
        (OWN, ["0", "1"], "no row's label is a class of the ensemble: expected 'setosa', got '0'"),
        (OWN, ["rest", "1"], "1 of 2 rows"),
        (IRIS, list("abcde"), "got 'a', 'b', 'c', 'd', 'e'; label"),
        (IRIS, list("abcdef"), "got 'a', 'b', 'c', 'd', 'e' and others; label"),
    ],
)
def test_other_labels_are_named_in_place_of_an_accuracy(
    classes: KnownClasses, labels: list[str], sentence: str
) -> None:
    whole = checked(classes, labels)
    assert whole.problem.startswith("not evaluated: ")
    assert whole == checked(classes, labels[:1], labels[1:])
    assert re.search(sentence, whole.problem), whole.problem


def test_unlabelled_rows_are_no_problem() -> None:
    assert checked(IRIS, None, None).problem == ""
