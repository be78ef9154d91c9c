"""What an aggregator reports to Prometheus about its ensembles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from trillium.errors import ClassFailure, Phase
from trillium.server.figures import Family, Measure, Value

from .combine import UNDECIDED, Labels

_CLASS = ("ensemble", "revision", "class")
CLASS_SECONDS = Measure(
    "trillium_class_seconds",
    "histogram",
    "Which class is slow, and where: while it queues, on the network, or in the model's run?",
    (*_CLASS, "phase"),
)
BATCH_ROWS = Measure(
    "trillium_batch_rows", "histogram", "Do requests travel together, and how many rows?", _CLASS
)
QUEUED_ROWS = Measure("trillium_queued_rows", "gauge", "Is a class overloaded?", _CLASS)
ROWS_IN_FLIGHT = Measure(
    "trillium_rows_in_flight", "gauge", "How many rows do the predictors of a class have?", _CLASS
)
ATTEMPTS = Measure(
    "trillium_attempts_total",
    "counter",
    "How often are requests sent first, again after trouble (repeat), or to a second predictor "
    "because the first one takes long (hedge)?",
    (*_CLASS, "kind"),
)
PREDICTIONS = Measure(
    "trillium_predictions_total",
    "counter",
    "Which labels do rows get? An empty one is undecided.",
    ("ensemble", "revision", "label"),
)
MISSING = Measure(
    "trillium_missing_classes_total",
    "counter",
    "Which classes fail requests, and in which phase?",
    (*_CLASS, "phase"),
)
PREDICTOR_STATE = Measure(
    "trillium_predictor_state",
    "gauge",
    "Which predictors are up? 1 for the state that each is in.",
    (*_CLASS, "address", "state"),
)
MEASURES = (
    CLASS_SECONDS,
    BATCH_ROWS,
    QUEUED_ROWS,
    ROWS_IN_FLIGHT,
    ATTEMPTS,
    PREDICTIONS,
    MISSING,
    PREDICTOR_STATE,
)


class PlanFigures:
    """What is counted of the requests for one revision."""

    def __init__(self) -> None:
        self.rows_of_label: Counter[str] = Counter()
        self.missing: Counter[tuple[str, Phase]] = Counter()

    def decided(self, labels: Labels, class_labels: Sequence[str]) -> None:
        """Rows have got their labels."""
        if len(labels.indexes) == 1:
            self.rows_of_label[_label(labels.indexes[0], class_labels)] += 1
            return
        for index, count in zip(*np.unique(labels.indexes, return_counts=True), strict=True):
            self.rows_of_label[_label(index, class_labels)] += int(count)

    def failed(self, failures: Iterable[ClassFailure]) -> None:
        """Classes have failed a request."""
        for failure in failures:
            self.missing[failure.class_label, failure.phase] += 1


def _label(index: int, class_labels: Sequence[str]) -> str:
    return "" if index == UNDECIDED else class_labels[index]


def families(ensembles: Iterable[Any]) -> Iterator[Family]:
    """The figures of all ensembles, which are `Ensemble`s."""
    found: dict[str, dict[tuple[str, ...], Value]] = {each.name: {} for each in MEASURES}
    for ensemble in ensembles:
        for plan in ensemble.plans:
            where = (ensemble.name, str(plan.revision))
            for label, count in plan.figures.rows_of_label.items():
                found[PREDICTIONS.name][*where, label] = count
            for (label, phase), count in plan.figures.missing.items():
                found[MISSING.name][*where, label, phase.value] = count
            for entry in plan.roster.entries:
                at = (entry.endpoint.class_label, entry.endpoint.address, entry.state.value)
                found[PREDICTOR_STATE.name][*where, *at] = 1
            for lane in plan.lanes:
                of_class, figures = (*where, lane.class_label), lane.figures
                for phase in ("queue", "network", "run"):
                    found[CLASS_SECONDS.name][*of_class, phase] = getattr(figures, phase)
                found[BATCH_ROWS.name][of_class] = figures.batch_rows
                found[QUEUED_ROWS.name][of_class] = lane.queued_rows
                found[ROWS_IN_FLIGHT.name][of_class] = figures.rows_in_flight
                for kind, count in figures.attempts.items():
                    found[ATTEMPTS.name][*of_class, kind] = count
    for measure in MEASURES:
        yield measure.of(found[measure.name])
