"""A deployment as it is kept: what its callers want of it, and what is. Pure values.

Callers write the spec (through `verbs`) and never the instances; the system writes the instances
(through `lifecycle`) and never the spec. Everything that must hold together stands in this one
document, so that one compare-and-set keeps it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, IntEnum
from typing import TypeAlias

Key: TypeAlias = tuple[str, int]
"""A deployment's id and the index of one of its instances."""


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


LIVE = tuple(state for state in State if state is not State.TERMINATED)
"""The states of a deployment that takes any work: of the others there may be very many."""


class InstancePhase(Enum):
    """The phase of one predictor; `controller.deployments.lifecycle` has the transitions."""

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


PUBLISHED = frozenset({InstancePhase.SERVING, InstancePhase.REPLACING})
"""Phases in which aggregators may ask the predictor."""


TROUBLING_FAILURES = 5
"""Failed attempts, one after the other, after which verbs that wait fail."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What callers ask for. Written by them only."""

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
class Instance:
    """One predictor: where the attempts to have it stand. Written by the system only."""

    phase: InstancePhase = InstancePhase.ABSENT
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
    instances: tuple[Instance, ...] = ()
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
    owner: str = ""
    """Id of the ensemble that it belongs to, which alone changes it."""

    @property
    def state(self) -> State:
        """What has been reached; follows from the spec and the instances."""
        return _state(self.spec, self.instances)

    @property
    def detail(self) -> str:
        """Why the state is not the target."""
        return next((instance.reason for instance in self.instances if instance.reason), "")

    @property
    def trouble(self) -> str:
        """What keeps the deployment from its target, for callers that wait, once so many attempts
        have failed that it may not be over soon; empty if nothing does. Attempts go on."""
        for instance in self.instances[: self.spec.replicas]:
            same = instance.generation == self.spec.generation
            if same and instance.failures >= TROUBLING_FAILURES and instance.phase not in PUBLISHED:
                return f"{instance.failures} attempts failed, the last one: {instance.reason}"
        return ""

    def with_instance(self, index: int, instance: Instance) -> Deployment:
        """The same with another instance at `index`."""
        instances = (*self.instances[:index], instance, *self.instances[index + 1 :])
        return replace(self, instances=instances)


@dataclass(frozen=True, slots=True)
class Event:
    """One transition, for the history."""

    number: int
    time: datetime
    cause: str
    """What happened, in a few words."""
    instance: int | None = None
    before: str = ""
    after: str = ""
    """Phase of the instance, or target of the spec, before and after."""
    attempt: int = 0


def wanted(spec: Spec, index: int) -> Target:
    """The target of the instance at `index`."""
    return spec.target if index < spec.replicas else Target.ABSENT


def has_refused(instance: Instance, spec: Spec) -> bool:
    """Whether the instance goes on serving its model because it refused the one of the spec."""
    return instance.refused == spec.digest and instance.generation == spec.generation


def _state(spec: Spec, instances: Sequence[Instance]) -> State:
    needed = instances[: spec.replicas]
    if spec.target is Target.ABSENT:
        gone = all(instance.phase is InstancePhase.ABSENT for instance in instances)
        return State.TERMINATED if gone else State.TERMINATING
    if any(_is_given_up(instance, spec) for instance in needed):
        return State.FAILED
    surplus = instances[spec.replicas :]
    complete = len(needed) == spec.replicas and all(
        instance.phase is InstancePhase.ABSENT for instance in surplus
    )
    if spec.target is Target.LOADED:
        serving = all(
            instance.phase is InstancePhase.SERVING and instance.digest == spec.digest
            for instance in needed
        )
        return State.LOADED if complete and serving else State.LOADING
    if complete and all(instance.phase is InstancePhase.IDLE for instance in needed):
        return State.CREATED
    leaving = (*PUBLISHED, InstancePhase.DRAINING, InstancePhase.UNLOADING)
    return (
        State.UNLOADING if any(instance.phase in leaving for instance in needed) else State.CREATING
    )


def _is_given_up(instance: Instance, spec: Spec) -> bool:
    """Whether an instance stays short of its target until a caller asks for it again."""
    if instance.phase is InstancePhase.FAILED:
        return instance.generation == spec.generation
    return (
        spec.target is Target.LOADED
        and instance.phase is InstancePhase.SERVING
        and has_refused(instance, spec)
    )
