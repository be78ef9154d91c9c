"""The deployments in the store: read, changed by compare-and-set, waited for, and their history.

An event is part of the very write that it tells of, in the document's `unannounced`; it goes to the
history afterwards, by its number, so that it is written there once however often that is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from controller.deployment import Deployment, Event, Slot, State
from controller.documents import event_body, event_of, from_body, to_body
from controller.store.port import AlreadyThere, Kind, Log, Record, Store
from controller.verbs import Wish, carried_out
from trillium.clock import Clock
from trillium.errors import DeploymentNotFound, Superseded
from trillium.waking import Bell

HISTORY_KEPT = timedelta(days=30)
_TRIES = 100
"""Compare-and-set is tried so often; each loss means that somebody else got on."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A deployment as it was read."""

    deployment: Deployment
    rev: int


class Deployments:
    """The deployments of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changed = Bell()

    async def get(self, id: str) -> Stored | None:
        """The deployment; None if there is none."""
        record = await self._store.get(Kind.DEPLOYMENT, id)
        return None if record is None else _stored(record)

    async def page(
        self, *, after: str = "", limit: int = 1000, states: Sequence[State] = (), model: str = ""
    ) -> Sequence[Stored]:
        """At most `limit` deployments whose ids come after `after`, in the order of their ids."""
        where: dict[str, Sequence[str]] = {}
        if states:
            where["state"] = [state.value for state in states]
        if model:
            where["model"] = [model]
        records = await self._store.list(Kind.DEPLOYMENT, where=where, after=after, limit=limit)
        return [_stored(record) for record in records]

    async def all(self, *, states: Sequence[State] = ()) -> AsyncIterator[Stored]:
        """Every deployment, in the order of their ids, a page at a time."""
        after = ""
        while page := await self.page(after=after, states=states):
            for stored in page:
                yield stored
            after = page[-1].deployment.id

    async def carry_out(self, wish: Wish) -> Stored:
        """Write what a caller wants. Raises what `controller.verbs.carried_out` raises."""
        for _ in range(_TRIES):
            stored = await self.get(wish.deployment)
            before = None if stored is None else stored.deployment
            after = carried_out(wish, before, self._clock.now())
            if stored is not None and after is before:
                return stored
            written = await self._put(after, 0 if stored is None else stored.rev)
            if written is not None:
                return written
        raise Superseded(f"deployment {wish.deployment!r} changes too often; try again")

    async def change_slot(
        self, stored: Stored, index: int, slot: Slot, cause: str
    ) -> Stored | None:
        """Write one slot of the deployment as it was read; None if it has changed since."""
        before = stored.deployment.slots[index]
        now = self._clock.now()
        event = Event(
            number=stored.deployment.event_count + 1,
            time=now,
            cause=cause,
            slot=index,
            before=before.phase.value,
            after=slot.phase.value,
            attempt=slot.attempt,
        )
        after = replace(
            stored.deployment.with_slot(index, slot),
            updated=now,
            event_count=event.number,
            unannounced=(*stored.deployment.unannounced, event),
        )
        return await self._put(after, stored.rev)

    async def forget(self, stored: Stored) -> bool:
        """Drop the record of a terminated deployment; False if it has changed since."""
        gone = await self._store.delete(Kind.DEPLOYMENT, stored.deployment.id, stored.rev)
        self._changed.ring()
        return gone

    async def history(self, id: str, *, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events with numbers above `after`, oldest first.

        Raises DeploymentNotFound.
        """
        stored = await self.get(id)
        if stored is None:
            raise DeploymentNotFound(f"there is no deployment {id!r}")
        await self._announce(stored.deployment)
        owner = _history_of(stored.deployment)
        entries = await self._store.read(Log.EVENT, owner, after=after, limit=limit)
        return [event_of(entry.body) for entry in entries]

    def changed(self) -> asyncio.Event:
        """An event that is set once some deployment may have changed after this call."""
        return self._changed.next()

    async def follow(self) -> None:
        """Set off `changed` for changes of other controllers, too; runs until cancelled."""
        async for _ in self._store.watch(Kind.DEPLOYMENT):
            self._changed.ring()

    async def _put(self, deployment: Deployment, rev: int) -> Stored | None:
        """Write the deployment in the place of revision `rev`, 0 meaning that there is none."""
        announced = deployment.unannounced[:-1]
        await self._announce(replace(deployment, unannounced=announced))
        body = to_body(replace(deployment, unannounced=deployment.unannounced[-1:]))
        record: Record | None
        if rev:
            record = await self._store.compare_and_set(Kind.DEPLOYMENT, deployment.id, rev, body)
        else:
            try:
                record = await self._store.create(Kind.DEPLOYMENT, deployment.id, body)
            except AlreadyThere:
                record = None
        self._changed.ring()
        return None if record is None else _stored(record)

    async def _announce(self, deployment: Deployment) -> None:
        """Write events to the history that may not stand there yet; each of them has happened."""
        for event in deployment.unannounced:
            await self._store.append(
                Log.EVENT,
                _history_of(deployment),
                event.number,
                event_body(event),
                expires=event.time + HISTORY_KEPT,
            )


def _history_of(deployment: Deployment) -> str:
    """Owner of a deployment's history; another one for another life under the same id."""
    born = deployment.created
    return f"{deployment.id}/{born.isoformat() if born else ''}"


def _stored(record: Record) -> Stored:
    return Stored(from_body(record.id, record.body), record.rev)
