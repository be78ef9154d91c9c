"""What the client's calls answer: frozen values of numpy arrays, tuples and texts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trillium.errors import ClassFailure


# Arrays do not compare to one truth value, so what holds them is equal only to itself.
@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Every class's probability of each row, from models that know nothing of each other."""

    ensemble: str
    """Name of the ensemble that answered; empty if its models do not say."""
    class_labels: tuple[str, ...]
    """The classes that answered: the columns of `probabilities`."""
    probabilities: NDArray[np.float32]
    """Shape [n, classes], each in [0, 1]; a row need not add up to 1."""
    missing: tuple[ClassFailure, ...] = ()
    """The classes that did not answer, and why; only with `allow_partial`."""

    @property
    def degraded(self) -> bool:
        """True when classes are missing."""
        return bool(self.missing)


@dataclass(frozen=True, slots=True, eq=False)
class Classifications:
    """The most probable class of each row."""

    ensemble: str
    """Name of the ensemble that answered; empty if its models do not say."""
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

    @property
    def degraded(self) -> bool:
        """True when classes are missing."""
        return bool(self.missing)


@dataclass(frozen=True, slots=True, eq=False)
class SampleScore:
    """The sample row that the models carry, and what they say of it."""

    features: NDArray[np.float32]
    """Shape [features]."""
    class_labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """Shape [classes], in the order of `class_labels`, each in [0, 1]."""
    label: str
    """The most probable class."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an ensemble expects and answers."""

    ensemble: str
    """Empty if the models do not say."""
    class_labels: tuple[str, ...]
    """In the order that settles ties."""
    feature_names: tuple[str, ...]
    """In column order; empty if the models do not say."""
    feature_count: int
    dtype: str
    """Element type of rows and probabilities on the wire, in KServe's words: "FP32"."""
    input_shape: tuple[int, ...]
    """[-1, features]; -1 stands for the number of rows."""
    output_shape: tuple[int, ...]
    """[-1, classes]."""
    sample: tuple[float, ...]
    """A row that one may try; empty if the models carry none."""
    max_row_count: int
    """Most rows that one request may hold."""
    max_message_bytes: int
    """Largest request message in bytes."""
    default_timeout_s: float
    """Time that the server gives a call without a deadline; this client always sets one."""


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
    """Why it is not asked; empty when READY."""
