"""Carries runs out: takes those that nobody works on, ends those that are late, leaves nothing.

Several controllers may do so at once and each may die anywhere. A run is taken by compare-and-set.
It may be taken from a holder whose beat stood still for a while on the clock of the one who takes
it; should that holder live after all, his next write fails, because the revision moved.

Failpoints: run-before-take and run-after-take, and those of `controller.runs.work` and
`controller.runs.runs`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from controller.deployment import State, Target
from controller.deployments import Deployments
from controller.failpoints import Failpoints
from controller.predictors import Predictors
from controller.runs.held import HeldRun, RunLost
from controller.runs.run import Lease, Run, RunState, taken
from controller.runs.runs import Runs, StoredRun
from controller.runs.source import Source
from controller.runs.work import Patience, RunWork
from controller.store.port import StoreError
from trillium.clock import Clock
from trillium.errors import RunNotFound
from trillium.waking import first_of

log = logging.getLogger(__name__)

_THERE = tuple(state for state in State if state is not State.TERMINATED)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things are done."""

    round_s: float = 1.0
    """Runs are looked at so often even if nothing seems to have changed."""
    beat_s: float = 1.0
    """How often a holder gives a sign of life."""
    silent_s: float = 4.0
    """A run whose holder gave none for so long is taken over."""
    sweep_s: float = 5.0
    """How often deployments are looked for whose run has ended."""
    trouble_s: float = 1.0
    """Pause after the store did not answer."""
    patience: Patience = field(default_factory=Patience)


_USUAL_PACE = Pace()


class RunExecutor:
    """Carries out the runs of one store."""

    def __init__(
        self,
        runs: Runs,
        deployments: Deployments,
        predictors: Predictors,
        source: Source,
        clock: Clock,
        failpoints: Failpoints,
        *,
        at_once: int,
        pace: Pace = _USUAL_PACE,
    ) -> None:
        """`at_once` is the most runs that this controller works on at the same time."""
        self._runs = runs
        self._deployments = deployments
        self._predictors = predictors
        self._source = source
        self._clock = clock
        self._failpoints = failpoints
        self._at_once = at_once
        self._pace = pace
        self._holder = secrets.token_hex(8)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._beats: dict[str, tuple[Lease, float]] = {}
        self._stirred = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry out runs inside the context. Leaving it stops the work where it is; this or another
        controller goes on from there."""
        tasks = [
            asyncio.create_task(self._rounds()),
            asyncio.create_task(self._sweeps()),
            asyncio.create_task(self._runs.follow()),
        ]
        try:
            yield
        finally:
            for task in (*tasks, *self._working.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._working.values(), return_exceptions=True)

    async def _rounds(self) -> None:
        while True:
            arrived = self._runs.arrived()
            self._stirred.clear()
            pause_s = self._pace.round_s
            try:
                pause_s = await self._round()
            except StoreError as error:
                log.warning("round of runs broken off", extra={"detail": str(error)})
            except Exception:
                log.exception("round of runs failed")
            await first_of(arrived.wait(), self._stirred.wait(), timeout_s=pause_s)

    async def _round(self) -> float:
        """End what is late and take what is free, oldest first; answers the seconds to the next."""
        live = [stored async for stored in self._runs.live()]
        live.sort(key=lambda stored: (stored.run.created, stored.run.id))
        known = {stored.run.id for stored in live}
        self._beats = {id: seen for id, seen in self._beats.items() if id in known}
        pause_s = self._pace.round_s
        for stored in live:
            run = stored.run
            left_s = (run.deadline - self._clock.now()).total_seconds()
            if left_s <= 0:
                await self._end_late(run)
                continue
            pause_s = min(pause_s, left_s)
            has_room = len(self._working) < self._at_once
            if self._is_free(run) and has_room:
                await self._take(stored)
        return pause_s

    async def _end_late(self, run: Run) -> None:
        detail = f"it had not ended after {run.order.timeout_s:g} s"
        try:
            await self._runs.end(run.id, RunState.TIMED_OUT, detail)
        except RunNotFound:
            return

    def _is_free(self, run: Run) -> bool:
        """Whether nobody works on the run, as far as can be told from here."""
        if run.id in self._working:
            return False
        now = self._clock.monotonic()
        lease, since = self._beats.get(run.id, (None, now))
        if lease != run.lease:
            since = now
        self._beats[run.id] = (run.lease, since)
        ours_or_nobodys = run.lease.holder in ("", self._holder)
        return ours_or_nobodys or now - since >= self._pace.silent_s

    async def _take(self, stored: StoredRun) -> None:
        run = taken(stored.run, self._holder, self._runs.now())
        self._failpoints.passed("run-before-take")
        held = await self._runs.replace(stored, run)
        self._failpoints.passed("run-after-take")
        if held is None:
            return
        facts = {"run": run.id, "attempt": run.attempts, "from": stored.run.lease.holder}
        log.info("run taken", extra=facts)
        task = asyncio.create_task(self._work(held))
        self._working[run.id] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._working[run.id]
            self._stirred.set()

        task.add_done_callback(ended)

    async def _work(self, stored: StoredRun) -> None:
        """Work on a run until it has ended or is lost, and clean up behind it."""
        try:
            try:
                await self._carry_out(HeldRun(self._runs, stored, self._failpoints))
            except* RunLost as lost:
                log.info("run lost", extra={"detail": str(lost.exceptions[0])})
            now = await self._runs.get(stored.run.id)
            if now is None:
                await self._runs.wish_away(stored.run.deployment, stored.run.id)
            elif now.run.has_ended:
                await self._runs.clean(now.run)
        except* StoreError as errors:
            facts = {"run": stored.run.id, "detail": str(errors.exceptions[0])}
            log.warning("cannot work on a run now", extra=facts)
            await asyncio.sleep(self._pace.trouble_s)
        except* Exception:
            log.exception("work on a run failed", extra={"run": stored.run.id})
            await asyncio.sleep(self._pace.trouble_s)

    async def _carry_out(self, held: HeldRun) -> None:
        work = RunWork(
            held,
            runs=self._runs,
            deployments=self._deployments,
            predictors=self._predictors,
            source=self._source,
            failpoints=self._failpoints,
            patience=self._pace.patience,
        )
        async with asyncio.TaskGroup() as group:
            staying = group.create_task(held.stay(self._pace.beat_s))
            await work.carry_out()
            staying.cancel()

    async def _sweeps(self) -> None:
        while True:
            try:
                await self._sweep()
            except StoreError as error:
                log.warning("sweep of runs broken off", extra={"detail": str(error)})
            except Exception:
                log.exception("sweep of runs failed")
            await asyncio.sleep(self._pace.sweep_s)

    async def _sweep(self) -> None:
        """Wish away every deployment whose run has ended or is gone, whoever left it behind.

        A deployment is only made for a run that is written down, so one without a run has outlived
        it. The run is read after the deployment, and an end is for good.
        """
        owned = [
            stored.deployment
            async for stored in self._deployments.all(states=_THERE)
            if stored.deployment.run and stored.deployment.spec.target is not Target.ABSENT
        ]
        for deployment in owned:
            run = await self._runs.get(deployment.run)
            if run is None or run.run.has_ended:
                await self._runs.wish_away(deployment.id, deployment.run)
