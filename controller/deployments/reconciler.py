"""Brings deployments to their target: reads, looks, decides, acts, and reads again.

One task tends one instance for as long as there is something to do; `lifecycle` decides, and
`effects` carries that out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from trillium.errors import RecordUnreadable
from trillium.server.tasks import Supervisor, is_asked_to_end
from trillium.waking import first_of

from ..figures import ReconcileFigures
from ..runtime.port import RuntimeUnreachable
from ..seen import Seen
from ..store.port import StoreError
from ..store.records import Followed, Stored
from . import lifecycle
from .actions import Change, Remove, Rest
from .document import LIVE, Deployment, Instance, Key, Spec, State
from .effects import Effects, ReconcilerPorts
from .inventory import Containers, Inventory
from .probing import Probes, ProbingPolicy

log = logging.getLogger(__name__)

ROUND_S = 30.0
"""Everything is checked at this interval even if no change was noticed."""
LONGEST_REST_S = 5.0
TROUBLE_S = 1.0
"""Pause after the store or the runtime did not answer."""

_USUAL_PROBING = ProbingPolicy()


class Reconciler:
    """Tends every instance of every deployment."""

    def __init__(
        self,
        ports: ReconcilerPorts,
        *,
        probing: ProbingPolicy = _USUAL_PROBING,
        on_failing: Callable[[str, bool], None] = lambda task, failing: None,
    ) -> None:
        """`on_failing` is that of a Supervisor."""
        self._ports = ports
        self._clock = ports.clock
        self.inventory = Inventory(ports.runtime, ports.clock)
        self._probes = Probes(
            ports.predictors, ports.clock, probing, lambda key: self._tend_soon(*key)
        )
        self._effects = Effects(ports, self.inventory, self._probes)
        self.figures = ReconcileFigures()
        self._tasks = Supervisor(on_failing)
        self._kicks: dict[Key, asyncio.Event] = {}
        """One for each instance that is being tended."""
        self._live = Followed(ports.deployments, LIVE)
        self._read: dict[Key, tuple[Spec, Instance]] = {}
        """The spec and the instance that each instance was last tended by."""
        self._listed = False
        self._unsettled: set[Key] = set()
        self._settled = asyncio.Event()

    @property
    def live(self) -> Iterable[Deployment]:
        """The deployments that are not terminated, as they were last read."""
        return [stored.value for stored in self._live.values.values()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tend inside the context."""
        async with self.inventory, self._tasks as tasks:
            tasks.keep("rounds of the reconciler", self._rounds)
            tasks.keep("watch of the runtime", self._follow_runtime)
            tasks.keep("watch of the deployments", self._ports.deployments.follow)
            tasks.keep("prober", self._probes.run)
            tasks.start("end of old records", self._ports.deployments.forget_overdue(), StoreError)
            yield

    async def first_look(self, within_s: float) -> None:
        """Wait until the runtime was looked at and every instance shows what was seen, so that
        nothing that an earlier controller wrote contradicts it.

        At most `within_s` seconds, and not for a runtime that does not answer.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.inventory.look()
                await self._settled.wait()
        except (TimeoutError, RuntimeUnreachable) as error:
            detail = str(error) or f"not done within {within_s:g} s"
            log.warning("not everything was looked at", extra={"detail": detail})

    async def _follow_runtime(self) -> None:
        """Have the instances tended whose containers have changed; late ones of a deployment that
        was terminated are among them."""
        seen: Containers = {}
        async for _ in self._ports.runtime.changes():
            now = await self._looked()
            for key in seen.keys() | now.keys():
                if seen.get(key) != now.get(key):
                    self._tend_soon(*key)
            seen = now

    async def _looked(self) -> Containers:
        """The containers, as soon as the runtime answers."""
        while True:
            try:
                return await self.inventory.look()
            except RuntimeUnreachable as error:
                log.warning("containers not looked at", extra={"detail": str(error)})
                await asyncio.sleep(TROUBLE_S)

    async def _rounds(self) -> None:
        next_round = self._clock.monotonic()
        while True:
            changed = self._ports.deployments.changed()
            try:
                before = self._live.values
                changes = await self._live.look()
                if self._clock.monotonic() >= next_round:
                    self._tend_all()
                    next_round = self._clock.monotonic() + ROUND_S
                else:
                    for id in changes:
                        self._tend_changed(self._live.values.get(id) or before[id])
            except StoreError as error:
                log.warning("round broken off", extra={"detail": str(error)})
                await asyncio.sleep(TROUBLE_S)
                continue
            left_s = next_round - self._clock.monotonic()
            await first_of(changed.wait(), timeout_s=max(0.0, left_s))

    def _tend_all(self) -> None:
        for id, stored in self._live.values.items():
            for index in range(len(stored.value.instances)):
                self._tend_soon(id, index)
        self._listed = True
        self._settle()

    def _tend_changed(self, stored: Stored[Deployment]) -> None:
        deployment = stored.value
        for index, instance in enumerate(deployment.instances):
            # Most changes are those that the instance itself has just made, or another one has.
            is_new = self._read.get((stored.id, index)) != (deployment.spec, instance)
            if is_new or lifecycle.regards_others(deployment, index):
                self._tend_soon(stored.id, index)

    def _tend_soon(self, id: str, index: int) -> None:
        key = (id, index)
        if key in self._kicks:
            self._kicks[key].set()
            return
        if not self._listed:
            self._unsettled.add(key)
        self._kicks[key] = asyncio.Event()
        self._tasks.start(f"tending of {id}/{index}", self._tend_to_the_end(id, index))

    async def _tend_to_the_end(self, id: str, index: int) -> None:
        try:
            await self._tend(id, index)
        finally:
            # At once, and not when the task is seen to be done: a kick in between would be lost.
            del self._kicks[id, index]

    async def _tend(self, id: str, index: int) -> None:
        """Take one action after the other until there is nothing to do."""
        kick = self._kicks[id, index]
        while True:
            kick.clear()
            facts = {"deployment": id, "instance": index}
            try:
                rest = await self._act(id, index, kick)
            except (StoreError, RuntimeUnreachable) as error:
                log.warning("cannot tend now", extra={**facts, "detail": str(error)})
                rest = self._pause_after_trouble()
            except (Exception, asyncio.CancelledError):
                if is_asked_to_end():
                    raise
                log.exception("tending failed", extra=facts)
                rest = self._pause_after_trouble()
            if rest is None:
                continue
            if rest.until is None and not kick.is_set():
                return
            await first_of(kick.wait(), timeout_s=self._seconds_to(rest.until))

    def _pause_after_trouble(self) -> Rest:
        return Rest(self._clock.now() + timedelta(seconds=TROUBLE_S))

    def _seconds_to(self, until: datetime | None) -> float:
        if until is None:
            return 0.0
        left_s = (until - self._clock.now()).total_seconds()
        return min(LONGEST_REST_S, max(0.01, left_s))

    async def _act(self, id: str, index: int, kick: asyncio.Event) -> Rest | None:
        """Read, look, and take one action; returns the pause before the next one, if there is
        one."""
        try:
            stored = await self._ports.deployments.get(id)
        except RecordUnreadable:
            # Its containers are left as they are: who could read it might want them.
            stored = None
        if stored is None or index >= len(stored.value.instances):
            self._settle((id, index))
            self._effects.forget((id, index))
            self._read.pop((id, index), None)
            return Rest()
        self._read[id, index] = stored.value.spec, stored.value.instances[index]
        seen = await self._effects.see(stored.value, index)
        action = lifecycle.step(stored.value, index, seen, self._clock.now())
        if isinstance(action, Change):
            await self._write(stored, index, seen, await self._effects.with_logs(action))
            return None
        if not isinstance(action, Remove):
            self._settle((id, index))
        if stored.value.state is State.TERMINATED:
            self._effects.forget((id, index))
            self._read.pop((id, index), None)
        with self._timed(type(action).__name__.lower()):
            return await self._effects.carry_out(action, stored, index, kick)

    @contextmanager
    def _timed(self, action: str) -> Iterator[None]:
        """Count an action, unless it is to do nothing."""
        began, outcome = self._clock.monotonic(), "failed"
        try:
            yield
            outcome = "done"
        finally:
            if action != "rest":
                self.figures.acted(action, outcome, self._clock.monotonic() - began)

    async def _write(
        self, stored: Stored[Deployment], index: int, seen: Seen, change: Change
    ) -> None:
        """Write a change of an instance. Instances of one deployment take turns: sixty that begin
        together would lose all but one of their writes to each other, time and again.

        What another instance wrote meanwhile does not make the look stale, which shows nothing of
        that one: if this instance and the spec are as they were, the rules decide again on what is
        written now, and without a new look.
        """
        async with self._ports.deployments.turn(stored.id):
            now = self._ports.deployments.recent(stored.id)
            if now is None or now.rev <= stored.rev:
                await self._effects.change(stored, index, change)
                return
            before, after = stored.value, now.value
            if (before.spec, before.instances[index]) != (after.spec, after.instances[index]):
                return
            again = lifecycle.step(after, index, seen, self._clock.now())
            if isinstance(again, Change):
                instance = replace(again.instance, log_tail=change.instance.log_tail)
                await self._effects.change(now, index, replace(again, instance=instance))

    def _settle(self, *keys: Key) -> None:
        """Note that instances show what is."""
        self._unsettled.difference_update(keys)
        if self._listed and not self._unsettled:
            self._settled.set()
