"""Deployments as store bodies and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from ..store.port import Body
from .document import Deployment, Event, Instance, InstancePhase, Spec, Target

T = TypeVar("T")

_NAMES: dict[type, frozenset[str]] = {
    kind: frozenset(each.name for each in fields(kind)) for kind in (Spec, Instance, Event)
}


def to_body(deployment: Deployment) -> Body:
    """The body of a deployment's record; `state` and `model` stand on top, to list by."""
    spec = _fields(deployment.spec) | {"target": deployment.spec.target.name}
    return {
        "state": deployment.state.value,
        "model": deployment.spec.model,
        "spec": spec,
        "slots": [
            _fields(instance) | {"phase": instance.phase.value} for instance in deployment.instances
        ],
        "created": deployment.created,
        "updated": deployment.updated,
        "run": deployment.run,
        "owner": deployment.owner,
        "requests": list(deployment.requests),
        "event_count": deployment.event_count,
        "unannounced": [event_body(event) for event in deployment.unannounced],
    }


def from_body(id: str, body: Body) -> Deployment:
    """The deployment that `to_body` made `body` of; fields that it lacks get their defaults."""
    spec = dict(body["spec"])
    return Deployment(
        id=id,
        spec=_made(Spec, spec | {"target": Target[spec["target"]]}),
        instances=tuple(
            _made(Instance, instance | {"phase": InstancePhase(instance["phase"])})
            for instance in body["slots"]
        ),
        created=body["created"],
        updated=body["updated"],
        run=body.get("run", ""),
        owner=body.get("owner", ""),
        requests=tuple(body.get("requests", ())),
        event_count=body.get("event_count", 0),
        unannounced=tuple(event_of(event) for event in body.get("unannounced", ())),
    )


def event_body(event: Event) -> dict[str, Any]:
    """An event as the body of an entry of the history."""
    body = _fields(event)
    body["slot"] = body.pop("instance")
    return body


def event_of(body: Body) -> Event:
    """The event that `event_body` made `body` of."""
    return _made(Event, {**body, "instance": body.get("slot")})


def _fields(value: object) -> dict[str, Any]:
    """The fields of a flat dataclass; `asdict` takes many times as long, which counts where a
    deployment has sixty instances."""
    return {name: getattr(value, name) for name in _NAMES[type(value)]}


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of the values that it knows: a later version's further ones are left out."""
    for unknown in values.keys() - _NAMES[kind]:
        del values[unknown]
    return kind(**values)
