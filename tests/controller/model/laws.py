"""What the search is bounded by, and which laws the modelled world obeys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from controller.deployments.actions import Action
from controller.deployments.document import Deployment, Spec, Target
from controller.seen import Seen


@dataclass(frozen=True, slots=True)
class Bounds:
    """How often each thing may go wrong on one path, and where paths begin.

    Crashes of controllers, looks that fail, writes that lose and requests that never arrive are not
    bounded: they may happen in every state, any number of times.
    """

    instances: int = 1
    controllers: int = 2
    changes: int = 2
    """Times that the caller changes the spec."""
    deaths: int = 1
    """Containers that end, or are removed by a stranger."""
    late: int = 1
    """Requests that stay under way after their sender gave up, or are carried out twice."""
    overruns: int = 0
    """Times that something takes longer than its limit."""
    hangs: int = 0
    """Predictors that stop answering, for good or for a while."""
    slow_loads: bool = False
    """Whether a predictor needs time to read a model, during which it is busy."""
    digests: tuple[str, ...] = ("m1", "m2")
    refused: str = ""
    """The digest that every predictor refuses."""
    targets: tuple[Target, ...] = (Target.ABSENT, Target.CREATED, Target.LOADED)
    replicas: tuple[int, ...] = ()
    """Numbers of predictors that the caller may ask for instead of all."""
    max_failures: int = 1
    """In the place of the shipped limit of the count, so that there are few states."""
    serving: bool = False
    """Whether paths begin with everything loaded, instead of with nothing."""

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        counts = f", {len(self.replicas)} numbers of replicas" if self.replicas else ""
        return (
            f"{self.instances} instance(s), {self.controllers} controllers, {self.changes} changes "
            f"of the target (among {len(self.targets)} targets, {len(self.digests)} "
            f"versions{refused}{counts}), "
            f"{self.deaths} deaths, {self.late} late or repeated requests, {self.overruns} "
            f"overruns, {self.hangs} hangs; any number of crashes, failed looks and lost writes"
        )


Revision: TypeAlias = Callable[[Deployment, int, Seen, datetime, Action], Action]


def _as_shipped(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    return action


@dataclass(frozen=True, slots=True)
class Laws:
    """What we rely on. Every value that is not the default is a seeded mutation."""

    names_tell_attempts: bool = True
    """Else a container has the name of its instance."""
    labels_tell_attempts: bool = True
    """Else a container of the instance is taken for one of the attempt that is written."""
    names_are_unique: bool = True
    removal_by_id: bool = True
    """Else by name."""
    auto_remove: bool = False
    compare_and_set: bool = True
    """Else whoever thinks that he leads just writes, as with a lease."""
    read_before_look: bool = True
    fenced: bool = True
    """Else predictors carry out whatever comes, in whatever order."""
    revise: Revision = field(default=_as_shipped)
    """Replaces what the shipped `step` answers."""


def spec(bounds: Bounds) -> Spec:
    """What is wanted where paths begin."""
    return Spec(
        model="iris-setosa",
        version=1,
        digest=bounds.digests[0],
        class_label="setosa",
        replicas=bounds.instances,
        target=Target.LOADED,
    )
