"""Whether the labels of a dataset are classes of a model's ensemble. Pure.

A model knows its own class alone: to it, a misspelled class and a foreign one are the rest. So an
accuracy is only given where the labels are known to be those of the ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trillium.tables.columns import listed

from .results import REST, Chunk

_SHOWN_LABELS = 5


@dataclass(frozen=True, slots=True)
class KnownClasses:
    """Classes of a model's ensemble."""

    ensemble: str
    """Empty if unknown."""
    labels: tuple[str, ...]
    """In metadata order, as far as they are known; the model's own among them."""
    are_all: bool
    """Whether the ensemble has no others."""


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """Labels of rows compared with the classes that are known; added up chunk by chunk."""

    class_label: str
    """Of the model."""
    classes: KnownClasses
    row_count: int = 0
    own_count: int = 0
    """Rows of the model's own class."""
    foreign_count: int = 0
    """Rows whose label is no class that is known."""
    foreign: tuple[str, ...] = ()
    """The first of those labels: one more than are shown, if there are as many."""

    def plus(self, chunk: Chunk) -> LabelCheck:
        """The check with the rows of `chunk`; an unlabelled one adds nothing."""
        labels = chunk.labels or ()
        known = {*self.classes.labels, self.class_label, REST}
        foreign = [label for label in labels if label not in known]
        shown = tuple(dict.fromkeys([*self.foreign, *foreign]))[: _SHOWN_LABELS + 1]
        return replace(
            self,
            row_count=self.row_count + len(labels),
            own_count=self.own_count + labels.count(self.class_label),
            foreign_count=self.foreign_count + len(foreign),
            foreign=shown,
        )

    @property
    def problem(self) -> str:
        """Why the labels cannot be used to evaluate the model, for a person; "" if they can.

        Where not all classes are known, rows of the model's own class show that the labels are
        those of its ensemble, and others may be classes that are unknown here.
        """
        if not self.foreign_count or (self.own_count and not self.classes.are_all):
            return ""
        many = f"{self.foreign_count} of {self.row_count} rows have labels"
        none = self.foreign_count == self.row_count
        count = "no row's label is a class" if none else f"{many} that are no class"
        named = f" {self.classes.ensemble!r}" if self.classes.ensemble else ""
        expected = f"expected {listed(self.classes.labels)}"
        got = listed(self.foreign[:_SHOWN_LABELS])
        more = " and others" if len(self.foreign) > _SHOWN_LABELS else ""
        return (
            f"not evaluated: {count} of the ensemble{named}: {expected}, "
            f"got {got}{more}; label rows by class, or {REST!r} for any other"
        )
