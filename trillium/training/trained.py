"""What has been trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The model of one class, and how it does on the held-out rows."""

    class_label: str
    path: Path
    """Of its artifact, which carries all of this in its metadata."""
    accuracy: float
    """Share (0 to 1) of the held-out rows that it assigns correctly to its class or the rest."""
    roc_auc: float
    """0 to 1; 0.5 is a guess."""
    log_loss: float
    """Of its probabilities, in nats; lower is better."""
    average_precision: float
    """0 to 1: the mean precision over all thresholds of its probability."""
    support: int
    """Held-out rows of the class."""
    precision: float
    """Share (0 to 1) of the held-out rows to which the ensemble gives this label that have it."""
    recall: float
    """Share (0 to 1) of the held-out rows of the class to which the ensemble gives its label."""
    f1: float
    """Harmonic mean of precision and recall."""
    deviation: float
    """Largest absolute difference between a probability of ONNX and of scikit-learn."""
    converged: bool
    """Whether fitting ended by itself, and not at its limit of steps."""

    @property
    def name(self) -> str:
        """What it is registered by."""
        return self.path.stem


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An ensemble with one model for each class, in the order of the classes."""

    ensemble: str
    models: tuple[TrainedModel, ...]
    accuracy: float
    """Share (0 to 1) of the held-out rows whose most probable class is the true one."""
    row_count: int
    held_out_row_count: int
    feature_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    """Counts of held-out rows [true class, class with the highest probability]."""
    left_out: tuple[str, ...] = ()
    """Columns of the table that hold the index of a DataFrame, and so are no features."""
    warnings: tuple[str, ...] = ()
    """Why the figures may not hold elsewhere, and what was recognized in the file."""


Progress: TypeAlias = Callable[[int, int], None]
"""Called with the count of trained classes and the count of all."""
