"""The deployments in the store: read, changed by compare-and-set, waited for, and their history.

An event is part of the very write that it describes, in the document's `unannounced`; it goes to
the history afterwards, by its number, so that it is there once however often that is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trillium.clock import Clock
from trillium.errors import DeploymentNotFound

from ..store.port import Kind, Log, Store
from ..store.records import Records, Stored
from .bodies import event_body, event_of, from_body, to_body
from .document import Deployment, Event, Instance, State
from .verbs import Command, apply

KEPT_AFTER_RUN = timedelta(hours=1)
"""How long the record of a deployment that was made for a run stays at most, once it is terminated:
until nothing that was asked of the runtime for it can still be carried out."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is over stays."""

    events: timedelta = timedelta(days=30)
    terminated: timedelta = timedelta(days=1)
    """The record of a terminated deployment."""


_USUAL_RETENTION = Retention()


class Deployments(Records[Deployment]):
    """The deployments of one store."""

    def __init__(self, store: Store, clock: Clock, retention: Retention = _USUAL_RETENTION) -> None:
        super().__init__(store, Kind.DEPLOYMENT, from_body, to_body, expires=self._end_of)
        self._clock = clock
        self._retention = retention

    async def apply(self, command: Command) -> Stored[Deployment]:
        """Write what a caller wants. Raises what `verbs.apply` raises."""
        return await self.change(
            command.deployment, lambda before: apply(command, before, self._clock.now())
        )

    async def change_instance(
        self, stored: Stored[Deployment], index: int, instance: Instance, cause: str
    ) -> Stored[Deployment] | None:
        """Write one instance of the deployment as it was read; None if it has changed since."""
        before = stored.value.instances[index]
        now = self._clock.now()
        event = Event(
            number=stored.value.event_count + 1,
            time=now,
            cause=cause,
            instance=index,
            before=before.phase.value,
            after=instance.phase.value,
            attempt=instance.attempt,
        )
        after = replace(
            stored.value.with_instance(index, instance),
            updated=now,
            event_count=event.number,
            unannounced=(*stored.value.unannounced, event),
        )
        return await self.put(stored.id, after, stored.rev)

    async def history(self, id: str, *, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events with numbers above `after`, oldest first.

        Raises DeploymentNotFound.
        """
        stored = await self.get(id)
        if stored is None:
            raise DeploymentNotFound(f"there is no deployment {id!r}")
        await self._announce(stored.value)
        owner = _history_of(stored.value)
        entries = await self._store.read(Log.EVENT, owner, after=after, limit=limit)
        return [event_of(entry.body) for entry in entries]

    async def forget_overdue(self) -> None:
        """Delete what ended long ago: releases before 0.2 gave such records no time to go."""
        async for stored in self.all(states=[State.TERMINATED]):
            until = self._end_of(stored.value)
            if until is not None and until < self._clock.now():
                await self.delete(stored.id, stored.rev)

    async def put(self, id: str, value: Deployment, rev: int) -> Stored[Deployment] | None:
        """As of every record; the events before the newest one go to the history first."""
        announced = value.unannounced[:-1]
        await self._announce(replace(value, unannounced=announced))
        return await super().put(id, replace(value, unannounced=value.unannounced[-1:]), rev)

    async def _announce(self, deployment: Deployment) -> None:
        """Write events to the history that may not stand there yet; each of them has happened."""
        for event in deployment.unannounced:
            await self._store.append(
                Log.EVENT,
                _history_of(deployment),
                event.number,
                event_body(event),
                expires=event.time + self._retention.events,
            )

    def _end_of(self, deployment: Deployment) -> datetime | None:
        if deployment.state is not State.TERMINATED or deployment.updated is None:
            return None
        kept = self._retention.terminated
        return deployment.updated + (min(kept, KEPT_AFTER_RUN) if deployment.run else kept)


def _history_of(deployment: Deployment) -> str:
    """Owner of a deployment's history; another one for another life under the same id."""
    born = deployment.created
    return f"{deployment.id}/{born.isoformat() if born else ''}"
