"""What one fresh look shows of everything that concerns an instance: pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class SeenState(Enum):
    """What a container does, as in `controller.runtime.port`."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class SeenContainer:
    """A container of this instance, whatever its attempt."""

    id: str
    attempt: int
    state: SeenState
    address: str = ""
    exit_reason: str = ""
    """Why it ended, for a person."""


@dataclass(frozen=True, slots=True)
class SeenPredictor:
    """What the predictor at the instance's address reports."""

    digest: str
    """Of the model that it serves; empty if it has none."""
    busy: bool = False
    """Whether it is loading or unloading."""
    fence: int = 0
    """The highest order that it has carried out; it refuses lower ones."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One fresh look at everything that concerns an instance."""

    containers: Sequence[SeenContainer] | None
    """None if the runtime did not answer: unknown is not dead."""
    predictor: SeenPredictor | None
    """None if it was not asked or did not answer."""
    withdrawal_confirmed: bool = False
    """Whether every aggregator has confirmed that the endpoint is gone."""
    silent_since: datetime | None = None
    """When the predictor stopped answering, once that is sure; never by one failure alone."""
