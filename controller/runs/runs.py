"""The runs in the store: created, read, ended, waited for, and their results.

Failpoints, passed before and after the write that they name: run-before-create, run-after-create,
run-before-cancelled, run-after-cancelled, run-before-timed-out, run-after-timed-out (ends that
anybody may write), and run-before-clean, run-after-clean (a run's own deployment is wished away).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.deployment import Target
from controller.deployments import Deployments
from controller.failpoints import Failpoints
from controller.runs.documents import run_body, run_of
from controller.runs.results import Chunk, Result, chunk_body, chunk_of
from controller.runs.run import LIVE, InvalidStep, Order, Run, RunState, moved
from controller.store.codec import to_milliseconds
from controller.store.port import AlreadyThere, Kind, Log, Record, Store, StoreUnavailable
from controller.verbs import Verb, Wish
from trillium.clock import Clock
from trillium.errors import DeploymentNotFound, IllegalStep, RunExists, RunNotFound, Superseded
from trillium.waking import Bell, first_of

_TRIES = 100
"""Compare-and-set is tried so often; each loss means that somebody else got on."""
_CHUNKS_AT_ONCE = 64
_STORE_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it was read."""

    run: Run
    rev: int


class Runs:
    """The runs of one store."""

    def __init__(
        self, store: Store, deployments: Deployments, clock: Clock, failpoints: Failpoints
    ) -> None:
        self._store = store
        self._deployments = deployments
        self._clock = clock
        self._failpoints = failpoints
        self._changed = Bell()
        self._arrived = Bell()

    def now(self) -> datetime:
        """The time, as precise as the store keeps it."""
        return to_milliseconds(self._clock.now())

    async def create(self, run: Run) -> StoredRun:
        """Write a run down. If there is one of that id, that one is answered; raises RunExists if
        its order was another."""
        self._failpoints.passed("run-before-create")
        try:
            record = await self._store.create(Kind.RUN, run.id, run_body(run), expires=run.expires)
        except AlreadyThere:
            stored = await self.existing(run.id, run.order)
            if stored is None:
                raise Superseded(f"run {run.id!r} has just expired; try again") from None
            return stored
        self._failpoints.passed("run-after-create")
        self._arrived.ring()
        self._changed.ring()
        return _stored(record)

    async def existing(self, id: str, order: Order) -> StoredRun | None:
        """The run of that id, if there is one; raises RunExists if its order was another."""
        stored = await self.get(id)
        if stored is not None and stored.run.order != order:
            run = stored.run
            text = f"run {id!r} exists with another order: model {run.model!r}"
            raise RunExists(f"{text} version {run.model_version}, dataset {run.dataset!r}")
        return stored

    async def get(self, id: str) -> StoredRun | None:
        """The run; None if there is none."""
        record = await self._store.get(Kind.RUN, id)
        return None if record is None else _stored(record)

    async def found(self, id: str) -> StoredRun:
        """The run; raises RunNotFound."""
        stored = await self.get(id)
        if stored is None:
            raise RunNotFound(f"there is no run {id!r}")
        return stored

    async def page(
        self,
        *,
        after: str = "",
        limit: int = 1000,
        states: Sequence[RunState] = (),
        model: str = "",
    ) -> Sequence[StoredRun]:
        """At most `limit` runs whose ids come after `after`, in the order of their ids."""
        where: dict[str, Sequence[str]] = {}
        if states:
            where["state"] = [state.value for state in states]
        if model:
            where["model"] = [model]
        records = await self._store.list(Kind.RUN, where=where, after=after, limit=limit)
        return [_stored(record) for record in records]

    async def live(self) -> AsyncIterator[StoredRun]:
        """Every run that has not ended, in the order of their ids, a page at a time."""
        after = ""
        while page := await self.page(after=after, states=LIVE):
            for stored in page:
                yield stored
            after = page[-1].run.id

    async def replace(self, stored: StoredRun, run: Run) -> StoredRun | None:
        """Write `run` in the place of what was read; None if that has changed since."""
        record = await self._store.compare_and_set(
            Kind.RUN, run.id, stored.rev, run_body(run), expires=run.expires
        )
        self._changed.ring()
        return None if record is None else _stored(record)

    async def cancel(self, id: str) -> StoredRun:
        """End a run, whatever it is at; one that has ended is left as it is. Raises RunNotFound."""
        return await self.end(id, RunState.CANCELLED, "a caller cancelled it")

    async def end(self, id: str, state: RunState, detail: str) -> StoredRun:
        """End a run in CANCELLED or TIMED_OUT, unless it has ended already, and wish its own
        deployment away. Raises RunNotFound."""
        for _ in range(_TRIES):
            stored = await self.found(id)
            if stored.run.has_ended:
                return stored
            self._failpoints.passed(f"run-before-{state.value}")
            after = moved(stored.run, state, self.now(), detail=detail)
            written = await self.replace(stored, after)
            if written is not None:
                self._failpoints.passed(f"run-after-{state.value}")
                await self.clean(written.run)
                return written
        raise Superseded(f"run {id!r} changes too often; try again")

    async def clean(self, run: Run) -> None:
        """Wish away the deployment that belongs to a run which has ended, if there is one."""
        if not run.has_ended:
            raise InvalidStep(f"run {run.id!r} has not ended; it needs its deployment")
        if run.temporary:
            await self.wish_away(run.deployment, run.id)

    async def wish_away(self, deployment: str, run: str) -> None:
        """Terminate a deployment, if it belongs to that run and this is not wished yet."""
        stored = await self._deployments.get(deployment)
        if stored is None or stored.deployment.run != run:
            return
        if stored.deployment.spec.target is not Target.ABSENT:
            self._failpoints.passed("run-before-clean")
            # Gone meanwhile is as good.
            with contextlib.suppress(DeploymentNotFound):
                await self._deployments.carry_out(Wish(Verb.TERMINATE, deployment, run=run))
            self._failpoints.passed("run-after-clean")

    async def ended(self, id: str) -> StoredRun:
        """Wait until a run has ended, also while the store does not answer. Raises RunNotFound."""
        while True:
            changed = self.changed()
            try:
                stored = await self.found(id)
            except StoreUnavailable:
                await first_of(changed.wait(), timeout_s=_STORE_PAUSE_S)
                continue
            if stored.run.has_ended:
                return stored
            await changed.wait()

    async def keep(self, run: Run, number: int, chunk: Chunk) -> None:
        """Store a chunk of results under its number, 1 and up. The first one that is stored under
        a number stays: another attempt's, which may differ in the last bits, is not taken."""
        body = chunk_body(chunk)
        try:
            await self._store.append(Log.RESULT, run.life, number, body, expires=run.expires)
        except AlreadyThere:
            return

    async def chunks(self, run: Run) -> AsyncGenerator[tuple[int, Chunk]]:
        """The stored chunks, each with its number, in their order."""
        after = 0
        while entries := await self._store.read(
            Log.RESULT, run.life, after=after, limit=_CHUNKS_AT_ONCE
        ):
            for entry in entries:
                yield entry.number, chunk_of(entry.body)
            after = entries[-1].number

    async def results(self, run: Run, first_row: int, count: int) -> list[Result]:
        """The results of at most `count` rows from `first_row` on, in the order of the rows.

        Raises IllegalStep unless the run has succeeded, and RunNotFound once they have expired.
        """
        if run.state is not RunState.SUCCEEDED:
            done = f"{run.rows_done} of {run.rows_total} rows done"
            text = f"run {run.id!r} is {run.state.value}, {done}"
            raise IllegalStep(f"{text}; there are results once it has succeeded")
        last = min(first_row + count, run.rows_total)
        found: list[Result] = []
        if first_row < last:
            before = first_row // run.chunk_rows
            wanted = (last - 1) // run.chunk_rows + 1 - before
            for entry in await self._store.read(Log.RESULT, run.life, after=before, limit=wanted):
                found += chunk_of(entry.body).results()
        found = [each for each in found if first_row <= each.row < last]
        if len(found) != max(0, last - first_row):
            raise RunNotFound(f"the results of run {run.id!r} have expired")
        return found

    def changed(self) -> asyncio.Event:
        """An event that is set once some run may have changed after this call."""
        return self._changed.next()

    def arrived(self) -> asyncio.Event:
        """An event that is set once a run was created here after this call."""
        return self._arrived.next()

    async def follow(self) -> None:
        """Set off `changed` for changes of other controllers, too; runs until cancelled."""
        async for _ in self._store.watch(Kind.RUN):
            self._changed.ring()


def _stored(record: Record) -> StoredRun:
    return StoredRun(run_of(record.id, record.body), record.rev)
