"""What callers may do to a deployment: each verb as a pure function from document to document.

target now            legal verbs
(never created)       create, load (with a model)
CREATED               create (same spec), load, update, unload (nothing to do), terminate
LOADED                load, update, unload, terminate
ABSENT                create, load, terminate (nothing to do)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from trillium.errors import DeploymentExists, DeploymentNotFound, IllegalStep

from .document import Deployment, Event, Instance, Spec, State, Target

REMEMBERED_REQUESTS = 64


class Verb(Enum):
    """What a caller asks for."""

    CREATE = "create"
    LOAD = "load"
    UPDATE = "update"
    UNLOAD = "unload"
    TERMINATE = "terminate"


LEGAL = {
    None: (Verb.CREATE, Verb.LOAD),
    Target.ABSENT: (Verb.CREATE, Verb.LOAD, Verb.TERMINATE),
    Target.CREATED: (Verb.CREATE, Verb.LOAD, Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE),
    Target.LOADED: (Verb.LOAD, Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE),
}
"""Legal verbs by the target at the time; None: never created."""

TARGETS = {
    Verb.CREATE: Target.CREATED,
    Verb.LOAD: Target.LOADED,
    Verb.UNLOAD: Target.CREATED,
    Verb.TERMINATE: Target.ABSENT,
}
"""What verbs want; an update leaves that as it is."""


@dataclass(frozen=True, slots=True)
class Command:
    """A verb with what belongs to it."""

    verb: Verb
    deployment: str
    spec: Spec | None = None
    """The new spec, for create and for a load that creates or changes the version. Its target and
    generation are set here."""
    request_id: str = ""
    run: str = ""
    """Id of the run that the deployment is for."""
    owner: str = ""
    """Id of the ensemble that the deployment belongs to."""
    replicas: int = 0
    """The new number of predictors, for an update."""


def apply(command: Command, deployment: Deployment | None, now: datetime) -> Deployment:
    """The document after a command; the same object if the command changes nothing.

    Raises IllegalStep, DeploymentExists, DeploymentNotFound.
    """
    if deployment is not None and command.request_id and command.request_id in deployment.requests:
        return deployment
    _check_legal(command, deployment)
    if command.verb is Verb.UPDATE and deployment is not None:
        target = deployment.spec.target
    else:
        target = TARGETS[command.verb]
    if deployment is None or (deployment.spec.target is Target.ABSENT and target > Target.ABSENT):
        return _begun(command, deployment, target, now)
    if command.verb is Verb.CREATE:
        _check_same(command, deployment)
    spec = deployment.spec
    if command.verb is Verb.LOAD and command.spec is not None:
        new = command.spec
        spec = replace(spec, version=new.version, digest=new.digest, class_label=new.class_label)
    if command.verb is Verb.UPDATE:
        spec = replace(spec, replicas=command.replicas)
    spec = replace(spec, target=target)
    failed = any(instance.reason for instance in deployment.instances)
    if spec == deployment.spec and not (failed and target > Target.ABSENT):
        # Remembered all the same: a late repetition must not change what came after it.
        return _remembering(command, deployment)
    return _respecified(command, deployment, spec, now)


def _remembering(command: Command, deployment: Deployment) -> Deployment:
    """The deployment that knows the command's request id; the same object if there is none."""
    if not command.request_id:
        return deployment
    requests = (*deployment.requests, command.request_id)[-REMEMBERED_REQUESTS:]
    return replace(deployment, requests=requests)


def _check_legal(command: Command, deployment: Deployment | None) -> None:
    if deployment is not None:
        _check_owner(command, deployment)
    if deployment is None and command.verb in (Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE):
        raise DeploymentNotFound(f"there is no deployment {command.deployment!r}; create it first")
    legal = LEGAL[None if deployment is None else deployment.spec.target]
    if command.verb not in legal:
        state = "" if deployment is None else deployment.state.value
        steps = ", ".join(verb.value for verb in legal)
        text = f"cannot {command.verb.value} deployment {command.deployment!r}, which is {state}"
        raise IllegalStep(f"{text}; legal: {steps}")


def _check_owner(command: Command, deployment: Deployment) -> None:
    """A run's deployment is the run's alone, but that anybody may terminate it; an ensemble's is
    the ensemble's alone."""
    if deployment.state is State.TERMINATED:
        return
    text = f"deployment {command.deployment!r} belongs to"
    if command.owner != deployment.owner:
        if deployment.owner:
            raise IllegalStep(f"{text} ensemble {deployment.owner!r}; change or delete that")
        raise IllegalStep(f"{text} no ensemble, so {command.owner!r} cannot have it")
    if command.run == deployment.run or command.verb is Verb.TERMINATE:
        return
    if deployment.run:
        raise IllegalStep(f"{text} run {deployment.run!r}; legal: terminate")
    raise IllegalStep(f"{text} no run, so run {command.run!r} cannot have it")


def _check_same(command: Command, deployment: Deployment) -> None:
    is_ = deployment.spec
    asked = command.spec
    if asked is None:
        return
    alike = replace(asked, target=is_.target, generation=is_.generation)
    if alike != is_:
        text = f"deployment {deployment.id!r} exists with another spec: model {is_.model!r}"
        raise DeploymentExists(f"{text} version {is_.version}, {is_.replicas} replicas")


def _begun(
    command: Command, before: Deployment | None, target: Target, now: datetime
) -> Deployment:
    """A deployment that begins, or begins anew where the instances of its earlier life ended."""
    if command.spec is None:
        if before is None:
            text = f"there is no deployment {command.deployment!r}"
            raise DeploymentNotFound(f"{text}; name a model to have it created")
        spec = replace(before.spec, target=target)
    else:
        spec = replace(command.spec, target=target)
    if before is None:
        fresh = Deployment(id=command.deployment, spec=replace(spec, generation=0), created=now)
        return _respecified(command, _owned(fresh, command), spec, now)
    spec = replace(spec, generation=before.spec.generation)
    return _respecified(command, _owned(before, command), spec, now)


def _owned(deployment: Deployment, command: Command) -> Deployment:
    return replace(deployment, run=command.run, owner=command.owner)


def _respecified(command: Command, before: Deployment, spec: Spec, now: datetime) -> Deployment:
    instances = before.instances + (Instance(),) * max(0, spec.replicas - len(before.instances))
    replicas = f" to {spec.replicas} replicas" if command.verb is Verb.UPDATE else ""
    event = Event(
        number=before.event_count + 1,
        time=now,
        cause=f"{command.verb.value}{replicas} was requested",
        before=before.spec.target.name if before.event_count else "",
        after=spec.target.name,
    )
    return replace(
        _remembering(command, before),
        spec=replace(spec, generation=before.spec.generation + 1),
        instances=instances,
        updated=now,
        event_count=event.number,
        unannounced=(*before.unannounced, event),
    )
