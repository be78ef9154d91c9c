"""Carries out runs: takes those that nobody works on, ends those that are late, leaves nothing.

Several controllers may do so at once and each may die anywhere. A run is taken by compare-and-set.
It may be taken from a holder whose beat stood still for a while on the clock of the one who takes
it; should that holder live after all, his next write fails, because the revision moved.

Failpoints: run-before-take and run-after-take, and those of `controller.runs.work` and
`controller.runs.repository`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from trillium.clock import Clock
from trillium.errors import RunNotFound, Superseded
from trillium.server.tasks import Supervisor
from trillium.waking import first_of

from ..deployments.document import LIVE as LIVE_DEPLOYMENTS
from ..deployments.document import Target
from ..deployments.repository import Deployments
from ..failpoints import Failpoints
from ..predictors import Predictors
from ..store.port import StoreError
from ..store.records import Stored
from .held import HeldRun, RunLost
from .repository import Runs
from .run import LIVE, Lease, Run, RunState, taken
from .source import Source
from .work import Patience, RunWork

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunPacing:
    """Intervals and limits of the work on runs."""

    round_s: float = 1.0
    """Runs are checked at this interval even if no change was noticed."""
    beat_s: float = 1.0
    """Interval of a holder's signs of life."""
    silent_s: float = 4.0
    """A run whose holder gave none for this time is taken over."""
    sweep_s: float = 5.0
    """Interval at which deployments are looked for whose run has ended."""
    trouble_s: float = 1.0
    """Pause after the store did not answer."""
    patience: Patience = field(default_factory=Patience)


_USUAL_PACING = RunPacing()


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
        pacing: RunPacing = _USUAL_PACING,
        on_failing: Callable[[str, bool], None] = lambda task, failing: None,
    ) -> None:
        """`at_once` is the most runs that this controller works on at the same time; `on_failing`
        is that of a Supervisor."""
        self._runs = runs
        self._deployments = deployments
        self._predictors = predictors
        self._source = source
        self._clock = clock
        self._failpoints = failpoints
        self._at_once = at_once
        self._pacing = pacing
        self._holder = secrets.token_hex(8)
        self._tasks = Supervisor(on_failing)
        self._working: set[str] = set()
        """Ids of the runs that are worked on here."""
        self._beats: dict[str, tuple[Lease, float]] = {}
        self._room = asyncio.Event()
        """Set when work on a run has ended."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry out runs inside the context. Leaving it stops the work where it is; this or another
        controller goes on from there."""
        async with self._tasks as tasks:
            tasks.keep("rounds of runs", self._rounds)
            tasks.keep("sweeps of runs", self._sweeps)
            tasks.keep("watch of the runs", self._runs.follow)
            yield

    async def _rounds(self) -> None:
        while True:
            arrived = self._runs.arrived()
            self._room.clear()
            pause_s = self._pacing.round_s
            try:
                pause_s = await self._round()
            except StoreError as error:
                log.warning("round of runs broken off", extra={"detail": str(error)})
            await first_of(arrived.wait(), self._room.wait(), timeout_s=pause_s)

    async def _round(self) -> float:
        """End what is late and take what is free, oldest first; returns the seconds to the next
        round."""
        live = [stored async for stored in self._runs.all(states=LIVE)]
        live.sort(key=lambda stored: (stored.value.created, stored.id))
        known = {stored.id for stored in live}
        self._beats = {id: seen for id, seen in self._beats.items() if id in known}
        pause_s = self._pacing.round_s
        for stored in live:
            run = stored.value
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
        except (RunNotFound, Superseded):
            # Gone, or changed by others all the time: the next round looks again.
            return

    def _is_free(self, run: Run) -> bool:
        """Whether nobody works on the run, as far as this controller knows."""
        if run.id in self._working:
            return False
        now = self._clock.monotonic()
        lease, since = self._beats.get(run.id, (None, now))
        if lease != run.lease:
            since = now
        self._beats[run.id] = (run.lease, since)
        ours_or_nobodys = run.lease.holder in ("", self._holder)
        return ours_or_nobodys or now - since >= self._pacing.silent_s

    async def _take(self, stored: Stored[Run]) -> None:
        run = taken(stored.value, self._holder, self._runs.now())
        self._failpoints.passed("run-before-take")
        held = await self._runs.put(run.id, run, stored.rev)
        self._failpoints.passed("run-after-take")
        if held is None:
            return
        facts = {"run": run.id, "attempt": run.attempts, "from": stored.value.lease.holder}
        log.info("run taken", extra=facts)
        self._working.add(run.id)
        self._tasks.start(f"work on run {run.id}", self._work_to_the_end(held))

    async def _work_to_the_end(self, held: Stored[Run]) -> None:
        try:
            await self._work(held)
        finally:
            self._working.discard(held.id)
            self._room.set()

    async def _work(self, stored: Stored[Run]) -> None:
        """Work on a run until it has ended or is lost, and clean up behind it."""
        try:
            try:
                await self._apply(HeldRun(self._runs, stored, self._failpoints))
            except* RunLost as lost:
                log.info("run lost", extra={"detail": str(lost.exceptions[0])})
            now = await self._runs.get(stored.id)
            if now is None:
                await self._runs.terminate_deployment(stored.value.deployment, stored.id)
            elif now.value.has_ended:
                await self._runs.clean(now.value)
        except* StoreError as errors:
            facts = {"run": stored.id, "detail": str(errors.exceptions[0])}
            log.warning("cannot work on a run now", extra=facts)
            await asyncio.sleep(self._pacing.trouble_s)
        except* Exception:
            log.exception("work on a run failed", extra={"run": stored.id})
            await asyncio.sleep(self._pacing.trouble_s)

    async def _apply(self, held: HeldRun) -> None:
        work = RunWork(
            held,
            runs=self._runs,
            deployments=self._deployments,
            predictors=self._predictors,
            source=self._source,
            failpoints=self._failpoints,
            patience=self._pacing.patience,
        )
        async with asyncio.TaskGroup() as group:
            staying = group.create_task(held.stay(self._pacing.beat_s))
            await work.apply()
            staying.cancel()

    async def _sweeps(self) -> None:
        while True:
            try:
                await self._sweep()
            except StoreError as error:
                log.warning("sweep of runs broken off", extra={"detail": str(error)})
            await asyncio.sleep(self._pacing.sweep_s)

    async def _sweep(self) -> None:
        """Command away every deployment whose run has ended or is gone, whoever left it behind.

        A deployment is only made for a run that is written down, so one without a run has outlived
        it. The run is read after the deployment, and an end is for good.
        """
        owned = [
            stored.value
            async for stored in self._deployments.all(states=LIVE_DEPLOYMENTS)
            if stored.value.run and stored.value.spec.target is not Target.ABSENT
        ]
        for deployment in owned:
            run = await self._runs.get(deployment.run)
            if run is None or run.value.has_ended:
                await self._runs.terminate_deployment(deployment.id, deployment.run)
