"""What may be done next for an instance: pure values, which `lifecycle` decides on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from .document import Instance, InstancePhase


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do before `until`, unless something changes."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Write the instance."""

    instance: Instance
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


def entering(
    instance: Instance, phase: InstancePhase, now: datetime, cause: str, logs_of: str = ""
) -> Change:
    """The change of an instance that enters a phase now."""
    return Change(replace(instance, phase=phase, since=now), cause, logs_of)
