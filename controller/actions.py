"""What may be done next for a slot: pure values, which `controller.lifecycle` decides on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from controller.deployment import Phase, Slot


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do before `until`, unless something changes."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Write the slot."""

    slot: Slot
    cause: str
    logs_of: str = ""
    """Id of a container whose last lines are to be kept with it."""


@dataclass(frozen=True, slots=True)
class Create:
    """Have the container of this attempt made, or started if it was only made."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop and remove a container by its full id."""

    container_id: str


@dataclass(frozen=True, slots=True)
class Load:
    """Give the predictor at `address` the model."""

    address: str
    digest: str
    order: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the predictor at `address` free its model."""

    address: str
    order: int


Action: TypeAlias = Rest | Change | Create | Remove | Load | Unload


def entering(slot: Slot, phase: Phase, now: datetime, cause: str, logs_of: str = "") -> Change:
    """The change of a slot that enters a phase now."""
    return Change(replace(slot, phase=phase, since=now), cause, logs_of)
