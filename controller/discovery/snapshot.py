"""Which predictors may be asked, as one snapshot with a growing revision, and who has confirmed it.

The snapshot is derived from the deployments and kept in one record of the store, so that every
controller publishes the same. Whoever notices a difference writes it by compare-and-set, on the
revision that was read *before* the deployments were; so a later revision never holds older news.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import reduce
from itertools import chain
from typing import Any, TypeAlias

from trillium.clock import Clock
from trillium.server.tasks import Supervisor
from trillium.waking import Bell, first_of

from ..deployments.document import LIVE, PUBLISHED, Deployment, Target
from ..deployments.repository import Deployments
from ..ensembles.document import EnsembleDocument
from ..ensembles.repository import EnsembleRepository
from ..store.port import AlreadyThere, Kind, Record, Store, StoreError
from ..store.records import Followed

log = logging.getLogger(__name__)

SNAPSHOT_ID = "endpoints"
REMEMBERED = 512
"""Number of withdrawn endpoints that are kept with the revision in which they were gone. All others
count as gone in the latest revision that is not kept, so that they are waited for too long rather
than too short."""
DIFFERENCES_KEPT = 64
"""A watcher that is further behind gets a whole snapshot."""
BEAT_S = 3.0
SILENT = timedelta(seconds=10)
"""A watcher that was silent for this long is not waited for."""
FORGOTTEN = timedelta(minutes=5)
PAUSE_S = 1.0
_TRIES = 20


@dataclass(frozen=True, slots=True, order=True)
class PublishedEndpoint:
    """A predictor that may be asked."""

    ensemble: str
    class_position: int
    class_label: str
    address: str
    digest: str
    deployment: str
    owned: bool = False
    """Whether it serves revisions of its ensemble, and so is asked only by the routes."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same endpoint as before."""
        return self.deployment, self.address


@dataclass(frozen=True, slots=True)
class Route:
    """A revision of an ensemble that is loaded or being loaded."""

    revision: int
    percent: int
    """Of the requests that name no revision."""
    classes: tuple[tuple[str, str], ...]
    """Each class, in order, with the digest of its model."""


Routes: TypeAlias = Mapping[str, tuple[Route, ...]]
"""By ensemble."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All predictors that may be asked."""

    revision: int
    endpoints: tuple[PublishedEndpoint, ...]
    routes: Routes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns snapshot `base` into snapshot `revision`."""

    base: int
    revision: int
    withdrawn: tuple[PublishedEndpoint, ...]
    """To be taken out first."""
    endpoints: tuple[PublishedEndpoint, ...]
    """New ones and changed ones."""
    routes: Routes = field(default_factory=dict)
    """New ones and changed ones; of ensembles that have none any more, empty ones."""


def difference(old: Snapshot, new: Snapshot) -> Difference:
    """What turns `old` into `new`."""
    before = {each.key: each for each in old.endpoints}
    after = {each.key: each for each in new.endpoints}
    changed = [each for key, each in after.items() if before.get(key) != each]
    # Whoever follows one ensemble loses an endpoint that goes to another.
    withdrawn = [
        each
        for key, each in before.items()
        if key not in after or after[key].ensemble != each.ensemble
    ]
    routes = {id: routes for id, routes in new.routes.items() if old.routes.get(id) != routes}
    routes |= dict.fromkeys(old.routes.keys() - new.routes.keys(), ())
    return Difference(old.revision, new.revision, tuple(withdrawn), tuple(changed), routes)


def joined(first: Difference, then: Difference) -> Difference:
    """Two differences, one after the other, as one."""
    gone = {each.key for each in then.withdrawn}
    endpoints = {each.key: each for each in first.endpoints if each.key not in gone}
    endpoints |= {each.key: each for each in then.endpoints}
    withdrawn = {(each.key, each.ensemble): each for each in first.withdrawn + then.withdrawn}
    return Difference(
        first.base,
        then.revision,
        tuple(withdrawn.values()),
        tuple(endpoints.values()),
        {**first.routes, **then.routes},
    )


class Discovery:
    """Keeps the snapshot and the watchers' confirmations."""

    def __init__(
        self,
        store: Store,
        deployments: Deployments,
        ensembles: EnsembleRepository,
        clock: Clock,
        on_failing: Callable[[str, bool], None] = lambda task, failing: None,
    ) -> None:
        """`on_failing` is that of a Supervisor."""
        self._on_failing = on_failing
        self._store = store
        self._deployments = deployments
        self._clock = clock
        self.snapshot = Snapshot(0, ())
        self._differences: deque[Difference] = deque(maxlen=DIFFERENCES_KEPT)
        """Each with the revision of the one before as its base; the last ends in `snapshot`."""
        self._ensembles = ensembles
        self._live = Followed(deployments, LIVE)
        self._known = Followed(ensembles, ())
        self._endpoints: dict[str, list[PublishedEndpoint]] = {}
        """By deployment, as the last look had them; no empty lists."""
        self._heard: dict[str, tuple[int, float]] = {}
        """The revision of each watcher's record, and when it was first seen here."""
        self._record: Record | None = None
        """The snapshot's record as it was last read."""
        self._changed = Bell()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the snapshot true inside the context."""
        async with Supervisor(self._on_failing) as tasks:
            tasks.keep("publisher of endpoints", self._follow)
            yield

    def changed(self) -> asyncio.Event:
        """An event that is set once there is another snapshot than at this call."""
        return self._changed.next()

    def since(self, revision: int) -> Difference | None:
        """What turns that snapshot into today's; None if it is not known."""
        differences = list(self._differences)
        for place, each in enumerate(differences):
            if each.base == revision:
                return reduce(joined, differences[place:])
        return None

    async def is_withdrawn(self, address: str) -> bool:
        """Whether every watcher has confirmed a snapshot without that endpoint."""
        record = await self._latest()
        if record is None:
            return True
        if any(each["address"] == address for each in record.body["endpoints"]):
            return False
        revision = record.body["gone"].get(address, record.body.get("forgotten", 0))
        return all(confirmed >= revision for confirmed in await self._confirmations())

    async def confirm(self, watcher: str, revision: int) -> None:
        """Record the revision that a watcher uses; also its sign of life, due every `BEAT_S`."""
        now = self._clock.now()
        body = {"confirmed": revision, "seen": now}
        for _ in range(_TRIES):
            record = await self._store.get(Kind.WATCHER, watcher)
            if record is None:
                try:
                    await self._store.create(Kind.WATCHER, watcher, body, expires=now + FORGOTTEN)
                except AlreadyThere:
                    continue
                return
            if await self._store.compare_and_set(
                Kind.WATCHER, watcher, record.rev, body, expires=now + FORGOTTEN
            ):
                return

    async def leave(self, watcher: str) -> None:
        """Record that a watcher has left: nothing waits for it any more."""
        record = await self._store.get(Kind.WATCHER, watcher)
        if record is not None:
            await self._store.delete(Kind.WATCHER, watcher, record.rev)

    async def _confirmations(self) -> list[int]:
        """Of all watchers that are not silent: a beat that stands still is judged by the clock of
        the one who looks, since clocks of two machines differ."""
        records = await self._store.list(Kind.WATCHER)
        now = self._clock.monotonic()
        heard = {each.id: self._heard.get(each.id, (0, 0.0)) for each in records}
        self._heard = {
            each.id: heard[each.id] if heard[each.id][0] == each.rev else (each.rev, now)
            for each in records
        }
        oldest = now - SILENT.total_seconds()
        return [each.body["confirmed"] for each in records if self._heard[each.id][1] > oldest]

    async def _follow(self) -> None:
        while True:
            changed = self._deployments.changed(), self._ensembles.changed()
            try:
                await self._refresh()
                await first_of(*(each.wait() for each in changed), timeout_s=10 * PAUSE_S)
            except StoreError as error:
                log.warning("endpoints not refreshed", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_S)

    async def _latest(self) -> Record | None:
        """The snapshot's record as it is now; read only if it has changed: it may be long."""
        rev = (await self._store.revisions(Kind.SNAPSHOT)).get(SNAPSHOT_ID)
        if rev is None:
            return None
        if self._record is None or self._record.rev != rev:
            self._record = await self._store.get(Kind.SNAPSHOT, SNAPSHOT_ID)
        return self._record

    async def _refresh(self) -> None:
        for _ in range(_TRIES):
            record = await self._latest()
            await self._known.look()
            for id in await self._live.look():
                stored = self._live.values.get(id)
                self._endpoints[id] = endpoints_of(stored.value) if stored else []
                if not self._endpoints[id]:
                    del self._endpoints[id]
            if await self._known.look():
                # What serves must have its endpoints in the same snapshot: read both again.
                continue
            known = chain.from_iterable(self._endpoints.values())
            endpoints = sorted({*known, *self._of_unreadable(record)})
            await self._confirmations()  # So that a silence begins before anybody asks.
            written = await self._write(record, endpoints, self._routes(record))
            if written is not None:
                self._publish(written)
                return

    def _of_unreadable(self, record: Record | None) -> list[PublishedEndpoint]:
        """What was published of deployments whose records cannot be read: that goes on."""
        aside = self._deployments.unreadable
        if record is None or not aside:
            return []
        return [
            PublishedEndpoint(**each)
            for each in record.body["endpoints"]
            if each["deployment"] in aside and each["deployment"] not in self._endpoints
        ]

    def _routes(self, record: Record | None) -> list[Any]:
        """What is known of ensembles, as a body; of those whose records cannot be read, what was
        published goes on."""
        routes = {id: routes_of(stored.value) for id, stored in self._known.values.items()}
        bodies = {id: list(map(_route_body, each)) for id, each in routes.items() if each}
        before = [] if record is None else record.body.get("routes", [])
        bodies |= {id: each for id, each in before if id in self._ensembles.unreadable}
        return [[id, bodies[id]] for id in sorted(bodies)]

    async def _write(
        self, record: Record | None, endpoints: list[PublishedEndpoint], routes: list[Any]
    ) -> Record | None:
        """The record with these endpoints and routes; None if another controller has written
        meanwhile."""
        bodies = [_body(endpoint) for endpoint in endpoints]
        if record is None:
            body: dict[str, Any] = {"revision": 1, "endpoints": bodies, "gone": {}}
            body["routes"] = routes
            try:
                return await self._store.create(Kind.SNAPSHOT, SNAPSHOT_ID, body)
            except AlreadyThere:
                return None
        if record.body["endpoints"] == bodies and record.body.get("routes", []) == routes:
            return record
        revision = record.body["revision"] + 1
        now_there = {endpoint.address for endpoint in endpoints}
        gone = {a: r for a, r in record.body["gone"].items() if a not in now_there}
        for each in record.body["endpoints"]:
            if each["address"] not in now_there:
                gone[each["address"]] = revision
        oldest_first = sorted(gone.items(), key=lambda item: item[1])
        dropped, kept = oldest_first[:-REMEMBERED], oldest_first[-REMEMBERED:]
        forgotten = max([record.body.get("forgotten", 0), *(number for _, number in dropped)])
        body = {
            "revision": revision,
            "endpoints": bodies,
            "routes": routes,
            "gone": dict(kept),
            "forgotten": forgotten,
        }
        return await self._store.compare_and_set(Kind.SNAPSHOT, SNAPSHOT_ID, record.rev, body)

    def _publish(self, record: Record) -> None:
        if record.body["revision"] <= self.snapshot.revision:
            return
        endpoints = tuple(PublishedEndpoint(**each) for each in record.body["endpoints"])
        routes = {id: tuple(map(_route_of, each)) for id, each in record.body.get("routes", [])}
        snapshot = Snapshot(record.body["revision"], endpoints, routes)
        self._differences.append(difference(self.snapshot, snapshot))
        self.snapshot = snapshot
        self._changed.ring()


def _body(endpoint: PublishedEndpoint) -> dict[str, Any]:
    # By hand: `asdict` takes ten times as long, and all of them are written at each change.
    return {
        "ensemble": endpoint.ensemble,
        "class_position": endpoint.class_position,
        "class_label": endpoint.class_label,
        "address": endpoint.address,
        "digest": endpoint.digest,
        "deployment": endpoint.deployment,
        "owned": endpoint.owned,
    }


def _route_body(route: Route) -> list[Any]:
    return [route.revision, route.percent, [list(each) for each in route.classes]]


def _route_of(body: list[Any]) -> Route:
    revision, percent, classes = body
    return Route(revision, percent, tuple((label, digest) for label, digest in classes))


def routes_of(ensemble: EnsembleDocument) -> tuple[Route, ...]:
    """The revisions of an ensemble that aggregators are to know: those that serve, and those that
    are or will be loaded, so that a switch finds them reached."""
    shares = {share.revision: share.percent for share in ensemble.serving}
    loaded = ensemble.kept_loaded if ensemble.target is Target.LOADED else tuple(shares)
    return tuple(
        Route(
            number,
            shares.get(number, 0),
            tuple((model.class_label, model.digest) for model in revision.classes),
        )
        for number in loaded
        if (revision := ensemble.revision(number)) is not None
    )


def endpoints_of(deployment: Deployment) -> list[PublishedEndpoint]:
    """The predictors of a deployment that may be asked; those of a run are its own."""
    if deployment.run:
        return []
    spec = deployment.spec
    return [
        PublishedEndpoint(
            ensemble=deployment.owner or spec.ensemble,
            class_position=spec.class_position,
            class_label=spec.class_label,
            address=instance.address,
            digest=instance.digest,
            deployment=deployment.id,
            owned=bool(deployment.owner),
        )
        for instance in deployment.instances
        if instance.phase in PUBLISHED
    ]
