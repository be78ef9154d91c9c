"""How well an ensemble does on the rows that were held out, and what makes that doubtful. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trillium.tables.columns import listed
from trillium.training.split import Split
from trillium.training.table import Table

Counts = npt.NDArray[np.int64]

FEW_ROWS = 20
"""Fewer rows of a class leave its figures to chance."""
_SHOWN_CLASSES = 10
_LEAK_ROWS = 20
"""In a table of fewer rows, a column that matches the classes may do so by chance."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How the ensemble does on one class: by each row's most probable class."""

    support: int
    """Held-out rows of the class."""
    precision: float
    """Share (0 to 1) of the rows given this label that have it; 0 if no row was given it."""
    recall: float
    """Share (0 to 1) of the rows of the class that were given its label."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """How the ensemble does on the rows that were held out."""

    confusion: Counts
    """Row counts [true class, class that was given]."""
    classes: tuple[ClassFigures, ...]

    @property
    def accuracy(self) -> float:
        """Share (0 to 1) of the rows whose most probable class is the true one."""
        return float(self.confusion.trace() / self.confusion.sum())


def figures_of(split: Split, positive: npt.NDArray[np.float32]) -> Figures:
    """The figures of every class's probability [n, classes] of the held-out rows; of equals, the
    first class wins."""
    count = positive.shape[1]
    truth, given = split.table.classes[split.held_out], positive.argmax(axis=1)
    confusion: Counts = np.zeros((count, count), np.int64)
    np.add.at(confusion, (truth, given), 1)
    right, support, labelled = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return Figures(
        confusion,
        tuple(
            ClassFigures(
                support=int(support[index]),
                precision=float(right[index] / labelled[index]) if labelled[index] else 0.0,
                recall=float(right[index] / support[index]),
            )
            for index in range(count)
        ),
    )


def warnings_of(split: Split, figures: Figures) -> Iterator[str]:
    """Why the figures may not hold elsewhere, a sentence each."""
    table = split.table
    fitted = np.bincount(table.classes[split.training], minlength=len(table.class_labels))
    few = [
        f"{label!r} ({rows} and {each.support})"
        for label, rows, each in zip(
            table.class_labels, fitted.tolist(), figures.classes, strict=True
        )
        if min(rows, each.support) < FEW_ROWS
    ]
    if few:
        shown = ", ".join(few[:_SHOWN_CLASSES])
        more = f" and {len(few) - _SHOWN_CLASSES} more" if len(few) > _SHOWN_CLASSES else ""
        text = f"fewer than {FEW_ROWS} rows to train on or held out leave figures to chance"
        yield f"{text}: {shown}{more}"
    if ids := [name for name, column in _columns(table) if _is_id(column)]:
        yield f"columns that look like row numbers or ids: {listed(ids)}; drop them if they are"
    leaks = [name for name, column in _columns(table) if _gives_away(column, table)]
    if leaks:
        text = f"columns whose values each occur with one class alone: {listed(leaks)}"
        yield f"{text}; drop them if they are made from the label"


def _columns(table: Table) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    return zip(table.feature_names, table.rows.T, strict=True)


def _is_id(column: npt.NDArray[np.float64]) -> bool:
    """Whether the values are whole, all different, and leave out few numbers between them."""
    if len(column) < FEW_ROWS or not np.array_equal(column, np.rint(column)):
        return False
    distinct = np.unique(column)
    return len(distinct) == len(column) and distinct[-1] - distinct[0] < 2 * len(column)


def _gives_away(column: npt.NDArray[np.float64], table: Table) -> bool:
    """Whether few values, each of several rows, tell the class of all rows."""
    if len(column) < _LEAK_ROWS or np.isnan(column).any():
        return False
    distinct, places, counts = np.unique(column, return_inverse=True, return_counts=True)
    if not 1 < len(distinct) <= 2 * len(table.class_labels) or counts.min() < 2:
        return False
    first = np.zeros(len(distinct), np.int64)
    first[places] = table.classes
    return bool((first[places] == table.classes).all())
