"""Which predictors may be asked, as one snapshot with a growing revision, and who has confirmed it.

The snapshot is derived from the deployments and kept in one record of the store, so that every
controller publishes the same. Whoever notices a difference writes it by compare-and-set, on the
revision that was read *before* the deployments were; so a later revision never holds older news.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from trillium.clock import Clock
from trillium.server.tasks import Supervisor
from trillium.waking import Bell

from ..deployments.document import PUBLISHED, Deployment
from ..deployments.repository import Deployments
from ..store.port import AlreadyThere, Kind, Record, Store, StoreError

log = logging.getLogger(__name__)

SNAPSHOT_ID = "endpoints"
REMEMBERED = 512
"""Number of withdrawn endpoints that are kept with the revision in which they were gone."""
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All predictors that may be asked."""

    revision: int
    endpoints: tuple[PublishedEndpoint, ...]


class Discovery:
    """Keeps the snapshot and the watchers' confirmations."""

    def __init__(
        self,
        store: Store,
        deployments: Deployments,
        clock: Clock,
        on_failing: Callable[[str, bool], None] = lambda task, failing: None,
    ) -> None:
        """`on_failing` is that of a Supervisor."""
        self._on_failing = on_failing
        self._store = store
        self._deployments = deployments
        self._clock = clock
        self.snapshot = Snapshot(0, ())
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

    async def is_withdrawn(self, address: str) -> bool:
        """Whether every watcher has confirmed a snapshot without that endpoint."""
        record = await self._store.get(Kind.SNAPSHOT, SNAPSHOT_ID)
        if record is None:
            return True
        if any(each["address"] == address for each in record.body["endpoints"]):
            return False
        revision = record.body["gone"].get(address, 0)
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
        records = await self._store.list(Kind.WATCHER)
        oldest = self._clock.now() - SILENT
        return [each.body["confirmed"] for each in records if each.body["seen"] > oldest]

    async def _follow(self) -> None:
        while True:
            changed = self._deployments.changed()
            try:
                await self._refresh()
                async with asyncio.timeout(10 * PAUSE_S):
                    await changed.wait()
            except TimeoutError:
                continue
            except StoreError as error:
                log.warning("endpoints not refreshed", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_S)

    async def _refresh(self) -> None:
        for _ in range(_TRIES):
            record = await self._store.get(Kind.SNAPSHOT, SNAPSHOT_ID)
            endpoints: list[PublishedEndpoint] = []
            async for stored in self._deployments.all():
                endpoints += endpoints_of(stored.value)
            written = await self._write(record, sorted(endpoints))
            if written is not None:
                self._publish(written)
                return

    async def _write(
        self, record: Record | None, endpoints: list[PublishedEndpoint]
    ) -> Record | None:
        """The record with these endpoints; None if another controller has written meanwhile."""
        bodies = [asdict(endpoint) for endpoint in endpoints]
        if record is None:
            body: dict[str, Any] = {"revision": 1, "endpoints": bodies, "gone": {}}
            try:
                return await self._store.create(Kind.SNAPSHOT, SNAPSHOT_ID, body)
            except AlreadyThere:
                return None
        if record.body["endpoints"] == bodies:
            return record
        revision = record.body["revision"] + 1
        now_there = {endpoint.address for endpoint in endpoints}
        gone = {a: r for a, r in record.body["gone"].items() if a not in now_there}
        for each in record.body["endpoints"]:
            if each["address"] not in now_there:
                gone[each["address"]] = revision
        newest = sorted(gone.items(), key=lambda item: item[1])[-REMEMBERED:]
        body = {"revision": revision, "endpoints": bodies, "gone": dict(newest)}
        return await self._store.compare_and_set(Kind.SNAPSHOT, SNAPSHOT_ID, record.rev, body)

    def _publish(self, record: Record) -> None:
        if record.body["revision"] <= self.snapshot.revision:
            return
        endpoints = tuple(PublishedEndpoint(**each) for each in record.body["endpoints"])
        self.snapshot = Snapshot(record.body["revision"], endpoints)
        self._changed.ring()


def endpoints_of(deployment: Deployment) -> list[PublishedEndpoint]:
    """The predictors of a deployment that may be asked; those of a run are its own."""
    if deployment.run:
        return []
    spec = deployment.spec
    return [
        PublishedEndpoint(
            ensemble=spec.ensemble,
            class_position=spec.class_position,
            class_label=spec.class_label,
            address=instance.address,
            digest=instance.digest,
            deployment=deployment.id,
        )
        for instance in deployment.instances
        if instance.phase in PUBLISHED
    ]
