"""What one fresh look shows of everything that concerns a slot: pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class ContainerState(Enum):
    """What a container does, as `controller.runtime.port` tells it."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class SeenContainer:
    """A container of this slot, whatever its attempt."""

    id: str
    attempt: int
    state: ContainerState
    address: str = ""
    exit_reason: str = ""
    """Why it ended, for a person."""


@dataclass(frozen=True, slots=True)
class SeenPredictor:
    """What the predictor at the slot's address says."""

    digest: str
    """Of the model that it serves; empty if it has none."""
    busy: bool = False
    """Whether it is loading or unloading."""
    fence: int = 0
    """The highest order that it has carried out; it refuses lower ones."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One fresh look at everything that concerns a slot."""

    containers: Sequence[SeenContainer] | None
    """None if the runtime did not answer: unknown is not dead."""
    predictor: SeenPredictor | None
    """None if it was not asked or did not answer."""
    withdrawal_confirmed: bool = False
    """Whether every aggregator has confirmed that the endpoint is gone."""
    silent_since: datetime | None = None
    """When the predictor stopped answering, once that is sure; never by one failure alone."""
