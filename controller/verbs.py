"""What callers may do to a deployment: each verb as a pure function from document to document.

what is wanted now    legal verbs
(never created)       create, load (with a model)
CREATED               create (same spec), load, unload (nothing to do), terminate
LOADED                load, unload, terminate
ABSENT                create, load, terminate (nothing to do)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from controller.deployment import Deployment, Event, Slot, Spec, State, Target
from trillium.errors import DeploymentExists, DeploymentNotFound, IllegalStep

REMEMBERED_REQUESTS = 64


class Verb(Enum):
    """What a caller asks."""

    CREATE = "create"
    LOAD = "load"
    UNLOAD = "unload"
    TERMINATE = "terminate"


LEGAL = {
    None: (Verb.CREATE, Verb.LOAD),
    Target.ABSENT: (Verb.CREATE, Verb.LOAD, Verb.TERMINATE),
    Target.CREATED: (Verb.CREATE, Verb.LOAD, Verb.UNLOAD, Verb.TERMINATE),
    Target.LOADED: (Verb.LOAD, Verb.UNLOAD, Verb.TERMINATE),
}
"""Verbs by what is wanted at the time; None: never created."""

TARGETS = {
    Verb.CREATE: Target.CREATED,
    Verb.LOAD: Target.LOADED,
    Verb.UNLOAD: Target.CREATED,
    Verb.TERMINATE: Target.ABSENT,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A verb with what belongs to it."""

    verb: Verb
    deployment: str
    spec: Spec | None = None
    """For create, and for a load that creates or changes the version: what is wanted. Its target
    and generation are set here."""
    request_id: str = ""
    run: str = ""
    """Id of the run that the deployment is for."""


def carried_out(wish: Wish, deployment: Deployment | None, now: datetime) -> Deployment:
    """The document after the wish; the same object if the wish changes nothing.

    Raises IllegalStep, DeploymentExists, DeploymentNotFound.
    """
    if deployment is not None and wish.request_id and wish.request_id in deployment.requests:
        return deployment
    _check_legal(wish, deployment)
    target = TARGETS[wish.verb]
    if deployment is None or (deployment.spec.target is Target.ABSENT and target > Target.ABSENT):
        return _begun(wish, deployment, target, now)
    if wish.verb is Verb.CREATE:
        _check_same(wish, deployment)
    spec = deployment.spec
    if wish.verb is Verb.LOAD and wish.spec is not None:
        new = wish.spec
        spec = replace(spec, version=new.version, digest=new.digest, class_label=new.class_label)
    spec = replace(spec, target=target)
    failed = any(slot.reason for slot in deployment.slots)
    if spec == deployment.spec and not (failed and target > Target.ABSENT):
        # Remembered all the same: should it come again late, it must not change what came after it.
        return _remembering(wish, deployment)
    return _respecified(wish, deployment, spec, now)


def _remembering(wish: Wish, deployment: Deployment) -> Deployment:
    """The deployment that knows the wish's request id; the same object if there is none."""
    if not wish.request_id:
        return deployment
    requests = (*deployment.requests, wish.request_id)[-REMEMBERED_REQUESTS:]
    return replace(deployment, requests=requests)


def _check_legal(wish: Wish, deployment: Deployment | None) -> None:
    if deployment is not None and wish.verb is not Verb.TERMINATE:
        _check_owner(wish, deployment)
    if deployment is None and wish.verb in (Verb.UNLOAD, Verb.TERMINATE):
        raise DeploymentNotFound(f"there is no deployment {wish.deployment!r}; create it first")
    legal = LEGAL[None if deployment is None else deployment.spec.target]
    if wish.verb not in legal:
        state = "" if deployment is None else deployment.state.value
        steps = ", ".join(verb.value for verb in legal)
        text = f"cannot {wish.verb.value} deployment {wish.deployment!r}, which is {state}"
        raise IllegalStep(f"{text}; legal: {steps}")


def _check_owner(wish: Wish, deployment: Deployment) -> None:
    """A run's deployment is the run's alone, but that anybody may terminate it."""
    if wish.run == deployment.run or deployment.state is State.TERMINATED:
        return
    text = f"deployment {wish.deployment!r} belongs to"
    if deployment.run:
        raise IllegalStep(f"{text} run {deployment.run!r}; legal: terminate")
    raise IllegalStep(f"{text} no run, so run {wish.run!r} cannot have it")


def _check_same(wish: Wish, deployment: Deployment) -> None:
    is_ = deployment.spec
    asked = wish.spec
    if asked is None:
        return
    alike = replace(asked, target=is_.target, generation=is_.generation)
    if alike != is_:
        text = f"deployment {deployment.id!r} exists with another spec: model {is_.model!r}"
        raise DeploymentExists(f"{text} version {is_.version}, {is_.replicas} replicas")


def _begun(wish: Wish, before: Deployment | None, target: Target, now: datetime) -> Deployment:
    """A deployment that begins, or begins anew where the slots of its earlier life ended."""
    if wish.spec is None:
        if before is None:
            text = f"there is no deployment {wish.deployment!r}"
            raise DeploymentNotFound(f"{text}; name a model to have it created")
        spec = replace(before.spec, target=target)
    else:
        spec = replace(wish.spec, target=target)
    if before is None:
        fresh = Deployment(id=wish.deployment, spec=replace(spec, generation=0), created=now)
        return _respecified(wish, replace(fresh, run=wish.run), spec, now)
    spec = replace(spec, generation=before.spec.generation)
    return _respecified(wish, replace(before, run=wish.run), spec, now)


def _respecified(wish: Wish, before: Deployment, spec: Spec, now: datetime) -> Deployment:
    slots = before.slots + (Slot(),) * max(0, spec.replicas - len(before.slots))
    event = Event(
        number=before.event_count + 1,
        time=now,
        cause=f"{wish.verb.value} was asked",
        before=before.spec.target.name if before.event_count else "",
        after=spec.target.name,
    )
    return replace(
        _remembering(wish, before),
        spec=replace(spec, generation=before.spec.generation + 1),
        slots=slots,
        updated=now,
        event_count=event.number,
        unannounced=(*before.unannounced, event),
    )
