"""EnsembleRepository as store bodies and back; fields that a body lacks get their defaults."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..deployments.document import Target
from ..store.port import Body
from .document import (
    ClassModel,
    EnsembleDocument,
    EnsembleRevision,
    Hold,
    Need,
    Resources,
    Share,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def to_body(ensemble: EnsembleDocument) -> Body:
    """The body of an ensemble's record."""
    body = asdict(ensemble) | {
        "target": ensemble.target.name,
        # As pairs: a class may have any name, also one that is no key.
        "resources": [[label, asdict(each)] for label, each in ensemble.resources.items()],
    }
    del body["id"]
    return {key: _listed(value) for key, value in body.items()}


def from_body(id: str, body: Body) -> EnsembleDocument:
    """The ensemble that `to_body` made `body` of."""
    values = dict(body)
    values |= {
        "id": id,
        "target": Target[body["target"]],
        "wanted": _all(Share, body["wanted"]),
        "serving": _all(Share, body["serving"]),
        "resources": {label: _made(Resources, each) for label, each in body["resources"]},
        "revisions": tuple(
            _made(EnsembleRevision, {**each, "classes": _all(ClassModel, each["classes"])})
            for each in body["revisions"]
        ),
        "holds": tuple(
            _made(Hold, {**each, "need": _made(Need, each["need"])}) for each in body["holds"]
        ),
        "resting": tuple(body["resting"]),
        "requests": tuple(body["requests"]),
    }
    return _made(EnsembleDocument, values)


def _all(kind: type[T], bodies: list[dict[str, Any]]) -> tuple[T, ...]:
    return tuple(_made(kind, each) for each in bodies)


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of the values that it knows: a later version's further ones are left out."""
    known = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def _listed(value: Any) -> Any:
    match value:
        case dict():
            return {key: _listed(each) for key, each in value.items()}
        case tuple() | list():
            return [_listed(each) for each in value]
    return value
