"""What a controller publishes of an ensemble: its revisions, and the predictors of each. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trillium.controller.v1 import discovery_service_pb2 as pb

from .roster import Endpoint

Places: TypeAlias = Mapping[Endpoint, int]
"""Where predictors are, each with the position of its class."""


@dataclass(frozen=True, slots=True)
class PublishedPlan:
    """One revision of an ensemble, and where its predictors are."""

    revision: int
    """0 for an ensemble without revisions: whatever its predictors serve."""
    percent: int
    """Of the requests that name no revision."""
    classes: tuple[tuple[str, str], ...]
    """Each class, in order, with the digest of its model; empty for revision 0, whose classes
    follow from its predictors."""
    places: tuple[tuple[Endpoint, int], ...]
    """In the order of the controller, which settles ties."""


Published: TypeAlias = Mapping[str, tuple[PublishedPlan, ...]]
"""By ensemble."""


def without_revisions(places: Places) -> tuple[PublishedPlan, ...]:
    """What is published of an ensemble without revisions."""
    return (PublishedPlan(0, 100, (), tuple(places.items())),)


def published(
    endpoints: Iterable[pb.Endpoint], routes: Mapping[str, Sequence[pb.RevisionRoute]]
) -> dict[str, tuple[PublishedPlan, ...]]:
    """The plans of every ensemble."""
    of_ensemble: dict[str, list[pb.Endpoint]] = defaultdict(list)
    for each in endpoints:
        of_ensemble[each.ensemble].append(each)
    plans = {}
    for name in of_ensemble.keys() | routes.keys():
        there = of_ensemble.get(name, ())
        if name in routes:
            plans[name] = tuple(_revisions(routes[name], there))
            continue
        free = {_endpoint(each): each.class_position for each in there if not each.owned}
        if free:
            plans[name] = without_revisions(free)
    return plans


def _revisions(
    routes: Sequence[pb.RevisionRoute], endpoints: Iterable[pb.Endpoint]
) -> Iterator[PublishedPlan]:
    serving: dict[tuple[str, str], list[Endpoint]] = defaultdict(list)
    for each in endpoints:
        serving[each.class_label, each.model_digest].append(_endpoint(each))
    for route in routes:
        classes = tuple((each.class_label, each.model_digest) for each in route.classes)
        places = tuple(
            (endpoint, position)
            for position, key in enumerate(classes)
            for endpoint in serving.get(key, ())
        )
        yield PublishedPlan(route.revision, route.percent, classes, places)


def _endpoint(message: pb.Endpoint) -> Endpoint:
    return Endpoint(message.class_label, message.address)
