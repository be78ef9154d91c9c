"""From what the classes answered to probabilities and labels. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trillium.errors import ClassFailure
from trillium.rows import WIRE_DTYPE, Probabilities

from .lanes.ticket import Outcome

Indexes: TypeAlias = NDArray[np.int32]

UNDECIDED = -1


@dataclass(frozen=True, slots=True)
class Scores:
    """The probabilities of the classes that answered."""

    class_labels: tuple[str, ...]
    """The classes that answered, in metadata order."""
    probabilities: Probabilities
    """Shape [n, len(class_labels)]."""
    failures: tuple[ClassFailure, ...]
    """The classes that did not."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The winner of each row."""

    indexes: Indexes
    """Shape [n]: index into `Scores.class_labels`, or UNDECIDED."""
    probabilities: Probabilities
    """Shape [n]: the winner's probability; 0 where undecided."""


def combine(class_labels: Sequence[str], outcomes: Sequence[Outcome | None]) -> Scores:
    """Put the columns of the classes side by side.

    Probabilities of different models are left as they are, not made to add up to 1. An outcome of
    None is a class that nobody waited for, since another one had failed.
    """
    answered = [
        (label, outcome)
        for label, outcome in zip(class_labels, outcomes, strict=True)
        if isinstance(outcome, bytes)
    ]
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, ClassFailure))
    columns = np.frombuffer(b"".join([outcome for _, outcome in answered]), WIRE_DTYPE)
    matrix = columns.reshape(len(answered), -1).T if answered else columns.reshape(0, 0)
    return Scores(tuple(label for label, _ in answered), matrix, failures)


def decide(scores: Scores, order: Sequence[str]) -> Labels:
    """The most probable class of each row; ties go to the class that is first in `order`.

    A class that did not answer may have had any probability up to 1. Where that could have won, the
    row is undecided: only a probability of 1 is safe, and only from the classes that come later in
    the order.
    """
    matrix = scores.probabilities
    indexes = matrix.argmax(axis=1).astype(np.int32)
    best = np.maximum.reduce(matrix, axis=1)
    if scores.failures:
        place = {label: position for position, label in enumerate(order)}
        first_missing = min(place[failure.class_label] for failure in scores.failures)
        places = np.array([place[label] for label in scores.class_labels])[indexes]
        safe = (best >= 1) & (places < first_missing)
        indexes = np.where(safe, indexes, UNDECIDED).astype(np.int32)
        best = np.where(safe, best, 0)
    return Labels(indexes, best.astype(np.float32, copy=False))
