"""The results of calls: frozen values of numpy arrays, tuples and strings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trillium.errors import ClassFailure


_SHOWN_ROWS = 20


# Arrays do not compare to one truth value, so what holds them is equal only to itself.
@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Every class's probability of each row, from independent models."""

    ensemble: str
    """Name of the ensemble; empty if its models do not declare one."""
    class_labels: tuple[str, ...]
    """The classes that answered: the columns of `probabilities`."""
    probabilities: NDArray[np.float32]
    """Shape [n, classes], each in [0, 1]; a row need not add up to 1."""
    missing: tuple[ClassFailure, ...] = ()
    """The classes that did not answer, and why; only with `allow_partial`."""
    revision: int = 0
    """The revision of the ensemble that answered; 0 if it has none."""

    @property
    def degraded(self) -> bool:
        """True when classes are missing."""
        return bool(self.missing)

    def _repr_html_(self) -> str:
        """A table of the first rows, for notebooks."""
        return _html(self.class_labels, self.probabilities.tolist(), self.missing)


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The most probable class of each row."""

    ensemble: str
    """Name of the ensemble; empty if its models do not declare one."""
    labels: NDArray[Any]
    """Shape [n], texts; None where a class that did not answer could have won."""
    probabilities: NDArray[np.float32]
    """Shape [n]: the label's probability, in [0, 1]; 0 where the label is None."""
    class_labels: tuple[str, ...]
    """The classes that answered, in metadata order."""
    class_probabilities: NDArray[np.float32] | None = None
    """Shape [n, classes], columns as `class_labels`; only with `include_probabilities`."""
    missing: tuple[ClassFailure, ...] = ()
    """The classes that did not answer, and why; only with `allow_partial`."""
    revision: int = 0
    """The revision of the ensemble that answered; 0 if it has none."""

    @property
    def degraded(self) -> bool:
        """True when classes are missing."""
        return bool(self.missing)

    def _repr_html_(self) -> str:
        """A table of the first rows, for notebooks."""
        pairs = zip(self.labels.tolist(), self.probabilities.tolist(), strict=True)
        return _html(("label", "probability"), list(pairs), self.missing)


def _html(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], missing: Sequence[ClassFailure]
) -> str:
    lines = [_line("th", ["", *headings])]
    for number, row in enumerate(rows[:_SHOWN_ROWS]):
        lines.append(_line("td", [str(number), *map(_cell, row)]))
    more = len(rows) - _SHOWN_ROWS
    notes = [f"and {more} more rows"] if more > 0 else []
    notes += [f"missing: {failure}" for failure in missing]
    below = "".join(f"<p>{html.escape(each)}</p>" for each in notes)
    return f"<table>{''.join(lines)}</table>{below}"


def _line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(each)}</{tag}>" for each in cells) + "</tr>"


def _cell(value: Any) -> str:
    if value is None:
        return "undecided"
    return value if isinstance(value, str) else f"{value:.4f}"


@dataclass(frozen=True, slots=True, eq=False)
class SampleScore:
    """The sample row of the models, and its score."""

    features: NDArray[np.float32]
    """Shape [features]."""
    class_labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """Shape [classes], in the order of `class_labels`, each in [0, 1]."""
    label: str
    """The most probable class."""
    revision: int = 0
    """The revision of the ensemble that answered; 0 if it has none."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Inputs, outputs and limits of an ensemble."""

    ensemble: str
    """Empty if the models do not declare one."""
    class_labels: tuple[str, ...]
    """In the order that settles ties."""
    feature_names: tuple[str, ...]
    """In column order; empty if the models do not declare them."""
    feature_count: int
    dtype: str
    """Element type of rows and probabilities on the wire, in KServe's words: "FP32"."""
    input_shape: tuple[int, ...]
    """[-1, features]; -1 stands for the number of rows."""
    output_shape: tuple[int, ...]
    """[-1, classes]."""
    sample: tuple[float, ...]
    """A row to try; empty if the models have none."""
    max_row_count: int
    """Most rows that one request may hold."""
    max_message_bytes: int
    """Largest request message in bytes."""
    default_timeout_s: float
    """Time that the server gives a call without a deadline; this client always sets one."""
    takes_missing: bool = False
    """Whether a value of a row may be missing, which is NaN."""
    revision: int = 0
    """The revision that this describes; 0 if the ensemble has none."""


@dataclass(frozen=True, slots=True)
class EnsembleSummary:
    """One of the ensembles that an aggregator serves."""

    name: str
    """Empty if its models do not declare one."""
    class_labels: tuple[str, ...]
    """The classes that are known, in the order that settles ties."""
    ready: bool
    """Whether each of them has a predictor that receives requests."""
    revisions: Mapping[int, int] = field(default_factory=dict)
    """The revisions that are loaded, each with its percent of the requests; the highest first."""


class PredictorState(Enum):
    """State of the aggregator's way to one predictor."""

    UNKNOWN = "unknown"
    """A state that this version of the client has no name for."""
    CONNECTING = "connecting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    MISMATCHED = "mismatched"
    """Reached, but its model does not fit the ensemble."""


@dataclass(frozen=True, slots=True)
class PredictorStatus:
    """One predictor, as the aggregator sees it."""

    class_label: str
    address: str
    state: PredictorState
    model_digest: str
    """SHA-256 of its artifact in hexadecimal digits; empty until it has been reached."""
    since: datetime
    """When the state was entered, in UTC."""
    detail: str
    """Why the predictor is not used; empty when READY."""
    ensemble: str = ""
    """The ensemble of its class; empty if its model does not declare one."""
    revision: int = 0
    """The revision that it is asked for; one of several revisions is listed for each."""
