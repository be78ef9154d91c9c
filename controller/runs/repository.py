"""The runs in the store: created, read, ended, waited for, and their results.

Failpoints, passed before and after the write that they name: run-before-create, run-after-create,
run-before-cancelled, run-after-cancelled, run-before-timed-out, run-after-timed-out (ends that
anybody may write), and run-before-clean, run-after-clean (a run's own deployment is terminated).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime

from trillium.clock import Clock
from trillium.errors import DeploymentNotFound, IllegalStep, RunExists, RunNotFound, Superseded
from trillium.waking import Bell, first_of

from ..deployments.document import Target
from ..deployments.repository import Deployments
from ..deployments.verbs import Command, Verb
from ..failpoints import Failpoints
from ..store.codec import to_milliseconds
from ..store.port import AlreadyThere, Kind, Log, Store, StoreUnavailable
from ..store.records import Records, Stored
from .bodies import run_body, run_of
from .results import Chunk, Result, chunk_body, chunk_of
from .run import InvalidStep, Order, Run, RunState, moved

_TRIES = 100
"""Attempts to end a run; each loss means that somebody else has changed it."""
_CHUNKS_AT_ONCE = 64
_STORE_PAUSE_S = 0.5


class Runs(Records[Run]):
    """The runs of one store."""

    def __init__(
        self, store: Store, deployments: Deployments, clock: Clock, failpoints: Failpoints
    ) -> None:
        super().__init__(store, Kind.RUN, run_of, run_body, expires=lambda run: run.expires)
        self._deployments = deployments
        self._clock = clock
        self._failpoints = failpoints
        self._arrived = Bell()

    def now(self) -> datetime:
        """The time, as precise as the store keeps it."""
        return to_milliseconds(self._clock.now())

    async def create(self, run: Run) -> Stored[Run]:
        """Write a new run. Returns the existing one if that has the same order; raises RunExists
        if its order is another."""
        self._failpoints.passed("run-before-create")
        created = await self.put(run.id, run, 0)
        if created is None:
            stored = await self.existing(run.id, run.order)
            if stored is None:
                raise Superseded(f"run {run.id!r} has just expired; try again")
            return stored
        self._failpoints.passed("run-after-create")
        self._arrived.ring()
        return created

    async def existing(self, id: str, order: Order) -> Stored[Run] | None:
        """The run of that id, if there is one; raises RunExists if its order was another."""
        stored = await self.get(id)
        if stored is not None and stored.value.order != order:
            run = stored.value
            text = f"run {id!r} exists with another order: model {run.model!r}"
            raise RunExists(f"{text} version {run.model_version}, dataset {run.dataset!r}")
        return stored

    async def found(self, id: str) -> Stored[Run]:
        """The run; raises RunNotFound."""
        stored = await self.get(id)
        if stored is None:
            raise RunNotFound(f"there is no run {id!r}")
        return stored

    async def cancel(self, id: str) -> Stored[Run]:
        """End a run, whatever it is at; one that has ended is left as it is. Raises RunNotFound."""
        return await self.end(id, RunState.CANCELLED, "a caller cancelled it")

    async def end(self, id: str, state: RunState, detail: str) -> Stored[Run]:
        """End a run in CANCELLED or TIMED_OUT, unless it has ended already, and command its own
        deployment away. Raises RunNotFound."""
        for _ in range(_TRIES):
            stored = await self.found(id)
            if stored.value.has_ended:
                return stored
            self._failpoints.passed(f"run-before-{state.value}")
            after = moved(stored.value, state, self.now(), detail=detail)
            written = await self.put(id, after, stored.rev)
            if written is not None:
                self._failpoints.passed(f"run-after-{state.value}")
                await self.clean(written.value)
                return written
        raise Superseded(f"run {id!r} changes too often; try again")

    async def remove(self, id: str, *, validate_only: bool) -> Run:
        """Delete a run that has ended, with its results; returns what it was. Raises RunNotFound,
        IllegalStep."""
        for _ in range(_TRIES):
            run, rev = (stored := await self.found(id)).value, stored.rev
            if not run.has_ended:
                text = f"cannot delete run {id!r}, which is {run.state.value}"
                raise IllegalStep(f"{text}; legal: cancel")
            if validate_only:
                return run
            if await self.delete(id, rev):
                # Should this be broken off, they go when the run would have.
                await self._store.drop_log(Log.RESULT, run.life)
                return run
        raise Superseded(f"run {id!r} changes too often; try again")

    async def clean(self, run: Run) -> None:
        """Command away the deployment that belongs to a run which has ended, if there is one."""
        if not run.has_ended:
            raise InvalidStep(f"run {run.id!r} has not ended; it needs its deployment")
        if run.temporary:
            await self.terminate_deployment(run.deployment, run.id)

    async def terminate_deployment(self, deployment: str, run: str) -> None:
        """Terminate a deployment, if it belongs to that run and is not being terminated yet."""
        stored = await self._deployments.get(deployment)
        if stored is None or stored.value.run != run:
            return
        if stored.value.spec.target is not Target.ABSENT:
            self._failpoints.passed("run-before-clean")
            # Gone meanwhile is as good.
            with contextlib.suppress(DeploymentNotFound):
                await self._deployments.apply(Command(Verb.TERMINATE, deployment, run=run))
            self._failpoints.passed("run-after-clean")

    async def ended(self, id: str) -> Stored[Run]:
        """Wait until a run has ended, also while the store does not answer. Raises RunNotFound."""
        while True:
            changed = self.changed()
            try:
                stored = await self.found(id)
            except StoreUnavailable:
                await first_of(changed.wait(), timeout_s=_STORE_PAUSE_S)
                continue
            if stored.value.has_ended:
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

    def arrived(self) -> asyncio.Event:
        """An event that is set once a run was created here after this call."""
        return self._arrived.next()
