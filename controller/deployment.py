"""A deployment as it is kept: what its callers want of it, and what is. Pure values.

Callers write the spec (through `controller.verbs`) and never the slots; the system writes the slots
(through `controller.lifecycle`) and never the spec. Everything that must hold together stands in
this one document, so that one compare-and-set keeps it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, IntEnum


class Target(IntEnum):
    """What a caller wants, each including the one before."""

    ABSENT = 0
    CREATED = 1
    LOADED = 2


class State(Enum):
    """What a deployment has reached, as a whole."""

    CREATING = "creating"
    CREATED = "created"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    FAILED = "failed"


class Phase(Enum):
    """What one predictor is at; `controller.lifecycle` says what follows what."""

    ABSENT = "absent"
    CREATING = "creating"
    IDLE = "idle"
    LOADING = "loading"
    SERVING = "serving"
    REPLACING = "replacing"
    DRAINING = "draining"
    UNLOADING = "unloading"
    REMOVING = "removing"
    BACKOFF = "backoff"
    FAILED = "failed"


PUBLISHED = frozenset({Phase.SERVING, Phase.REPLACING})
"""Phases in which aggregators may ask the predictor."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is wanted. Written for callers only."""

    model: str
    version: int
    digest: str
    """SHA-256 of the artifact of that version."""
    class_label: str
    ensemble: str = ""
    """Ensemble of the model; empty if unknown."""
    class_position: int = 0
    """Place of the class in the ensemble's order of classes."""
    replicas: int = 1
    cpus: float | None = None
    memory_bytes: int | None = None
    target: Target = Target.CREATED
    generation: int = 1
    """Grows with every change of the spec; what had failed is tried again."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One predictor: where the attempts to have it stand. Written by the system only."""

    phase: Phase = Phase.ABSENT
    since: datetime | None = None
    """When the phase was entered."""
    attempt: int = 0
    """Grows with every attempt and never shrinks; in the container's name and labels."""
    container_id: str = ""
    """Of the container of this attempt, once seen."""
    address: str = ""
    digest: str = ""
    """Of the model that it serves, is being given or is about to free."""
    incoming: str = ""
    """Of the model that replaces it; only in REPLACING."""
    refused: str = ""
    """Of a new version that the predictor refused; offered again when it is asked for again."""
    failures: int = 0
    """Failed attempts, one after the other."""
    generation: int = 0
    """Generation of the spec that the failures, and what was refused, belong to."""
    retry_time: datetime | None = None
    reason: str = ""
    log_tail: str = ""
    order: int = 0
    """Number of what its predictor was last to do (load, unload) among all that the deployment's
    predictors were to do; it goes with the call, so that one that was overtaken has no effect."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The document."""

    id: str
    spec: Spec
    slots: tuple[Slot, ...] = ()
    created: datetime | None = None
    updated: datetime | None = None
    run: str = ""
    """Id of the run that it was made for; such a deployment ends with its run."""
    requests: tuple[str, ...] = ()
    """Ids of the requests that were last carried out on it, so that none is carried out twice."""
    event_count: int = 0
    """Number of its last event."""
    unannounced: tuple[Event, ...] = field(default=())
    """Events that belong to this revision and may not have been written to the history yet."""

    @property
    def state(self) -> State:
        """What has been reached; follows from the spec and the slots."""
        return _state(self.spec, self.slots)

    @property
    def detail(self) -> str:
        """Why the state is not what is wanted."""
        return next((slot.reason for slot in self.slots if slot.reason), "")

    def with_slot(self, index: int, slot: Slot) -> Deployment:
        """The same with another slot at `index`."""
        slots = (*self.slots[:index], slot, *self.slots[index + 1 :])
        return replace(self, slots=slots)


@dataclass(frozen=True, slots=True)
class Event:
    """One transition, for the history."""

    number: int
    time: datetime
    cause: str
    """What happened, in a few words."""
    slot: int | None = None
    before: str = ""
    after: str = ""
    """Phase of the slot, or target of the spec, before and after."""
    attempt: int = 0


def wanted(spec: Spec, index: int) -> Target:
    """What is wanted of the slot at `index`."""
    return spec.target if index < spec.replicas else Target.ABSENT


def has_refused(slot: Slot, spec: Spec) -> bool:
    """Whether the slot goes on serving what it has because what is wanted was refused."""
    return slot.refused == spec.digest and slot.generation == spec.generation


def _state(spec: Spec, slots: Sequence[Slot]) -> State:
    needed = slots[: spec.replicas]
    if spec.target is Target.ABSENT:
        gone = all(slot.phase is Phase.ABSENT for slot in slots)
        return State.TERMINATED if gone else State.TERMINATING
    if any(_is_given_up(slot, spec) for slot in needed):
        return State.FAILED
    complete = len(needed) == spec.replicas
    if spec.target is Target.LOADED:
        serving = all(slot.phase is Phase.SERVING and slot.digest == spec.digest for slot in needed)
        return State.LOADED if complete and serving else State.LOADING
    if complete and all(slot.phase is Phase.IDLE for slot in needed):
        return State.CREATED
    leaving = (*PUBLISHED, Phase.DRAINING, Phase.UNLOADING)
    return State.UNLOADING if any(slot.phase in leaving for slot in needed) else State.CREATING


def _is_given_up(slot: Slot, spec: Spec) -> bool:
    """Whether a slot stays short of what is wanted until somebody asks for it again."""
    if slot.phase is Phase.FAILED:
        return slot.generation == spec.generation
    return spec.target is Target.LOADED and slot.phase is Phase.SERVING and has_refused(slot, spec)
