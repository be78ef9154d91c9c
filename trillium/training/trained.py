"""What has been trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The model of one class, and how it does on the held-out rows."""

    class_label: str
    path: Path
    """Of its artifact, which carries all of this in its metadata."""
    accuracy: float
    """Share (0 to 1) of the held-out rows that it tells rightly as its class or another one."""
    roc_auc: float
    """0 to 1; 0.5 is a guess."""
    log_loss: float
    """Of its probabilities, in nats; lower is better."""
    deviation: float
    """Largest |ONNX - scikit-learn| of a probability."""
    converged: bool
    """Whether fitting ended by itself, and not at its limit of steps."""

    @property
    def name(self) -> str:
        """What it is registered by."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Trained:
    """An ensemble with one model for each class, in the order of the classes."""

    ensemble: str
    models: tuple[TrainedModel, ...]
    accuracy: float
    """Share (0 to 1) of the held-out rows whose most probable class is the true one."""
    row_count: int
    held_out_row_count: int
    feature_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Columns of the table that hold the index of a DataFrame, and so are no features."""


Progress: TypeAlias = Callable[[int, int], None]
"""Told the classes that are trained and those that there are."""
