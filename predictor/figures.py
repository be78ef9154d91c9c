"""What a predictor reports to Prometheus about its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trillium.model.description import ModelDescription
from trillium.server.figures import SECONDS, Distribution, Family, Measure

RUN_SECONDS = Measure(
    "trillium_model_run_seconds",
    "histogram",
    "How long do runs of the model take, the wait for their turn included?",
    ("class",),
)
ROWS_SCORED = Measure(
    "trillium_model_rows_total", "counter", "How many rows has the model scored?", ("class",)
)
RUNS_WAITING = Measure(
    "trillium_model_runs_waiting", "gauge", "How many slow runs wait for the model?"
)
MODEL_BYTES = Measure(
    "trillium_model_bytes",
    "gauge",
    "Which model is loaded, and how large is its artifact?",
    ("class", "model", "digest"),
)
MEASURES = (RUN_SECONDS, ROWS_SCORED, RUNS_WAITING, MODEL_BYTES)


class ModelFigures:
    """What is counted of the models that a predictor has had, by class."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], Distribution] = {}
        self._rows: Counter[tuple[str, ...]] = Counter()

    def ran(self, class_label: str, row_count: int, seconds: float) -> None:
        """A run has succeeded."""
        key = (class_label,)
        distribution = self._seconds.get(key)
        if distribution is None:
            distribution = self._seconds[key] = Distribution(SECONDS)
        distribution.add(seconds)
        self._rows[key] += row_count

    def families(self, loaded: ModelDescription | None, waiting: int) -> Iterator[Family]:
        """All of it, with the model that is loaded and the number of runs that wait for it."""
        yield RUN_SECONDS.of(self._seconds)
        yield ROWS_SCORED.of(self._rows)
        yield RUNS_WAITING.of({(): waiting})
        of_loaded: dict[tuple[str, ...], float] = {}
        if loaded is not None:
            of_loaded[loaded.class_label, loaded.name, loaded.digest] = loaded.size_bytes
        yield MODEL_BYTES.of(of_loaded)
