"""Brings deployments to their target: reads, looks, decides, acts, and reads again.

One task tends one instance for as long as there is something to do; `lifecycle` decides, and
`effects` carries that out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from trillium.server.tasks import Supervisor, is_asked_to_end
from trillium.waking import first_of

from ..runtime.port import RuntimeUnreachable
from ..store.port import StoreError
from ..store.records import Stored
from . import lifecycle
from .actions import Change, Remove, Rest
from .document import Deployment, State
from .effects import Effects, ReconcilerPorts
from .inventory import Inventory
from .probing import Probes, ProbingPolicy

log = logging.getLogger(__name__)

ROUND_S = 10.0
"""Everything is checked at this interval even if no change was noticed."""
LONGEST_REST_S = 5.0
TROUBLE_S = 1.0
"""Pause after the store or the runtime did not answer."""
KEPT_AFTER_END = timedelta(days=1)
"""How long the record of a terminated deployment stays."""

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
        self._tasks = Supervisor(on_failing)
        self._kicks: dict[tuple[str, int], asyncio.Event] = {}
        """One for each instance that is being tended."""
        self._runtime_changed = asyncio.Event()
        self._listed = False
        self._unsettled: set[tuple[str, int]] = set()
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tend inside the context."""
        async with self.inventory, self._tasks as tasks:
            tasks.keep("rounds of the reconciler", self._rounds)
            tasks.keep("watch of the runtime", self._follow_runtime)
            tasks.keep("watch of the deployments", self._ports.deployments.follow)
            tasks.keep("prober", self._probes.run)
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
        async for _ in self._ports.runtime.changes():
            self._runtime_changed.set()

    async def _rounds(self) -> None:
        while True:
            changed = self._ports.deployments.changed()
            self._runtime_changed.clear()
            try:
                await self._round()
            except (StoreError, RuntimeUnreachable) as error:
                log.warning("round broken off", extra={"detail": str(error)})
                await asyncio.sleep(TROUBLE_S)
            await first_of(changed.wait(), self._runtime_changed.wait(), timeout_s=ROUND_S)

    async def _round(self) -> None:
        """Have every instance tended that may need it."""
        ended = []
        async for stored in self._ports.deployments.all():
            if stored.value.state is State.TERMINATED:
                ended.append(stored)
            else:
                for index in range(len(stored.value.instances)):
                    self._tend_soon(stored.value.id, index)
        self._listed = True
        self._settle()
        if ended:
            await self._bury(ended)

    async def _bury(self, ended: list[Stored[Deployment]]) -> None:
        """Remove late containers of terminated deployments; forget those long gone."""
        left = {container.deployment for container in await self.inventory.look()}
        for stored in ended:
            deployment = stored.value
            if deployment.id in left:
                for index in range(len(deployment.instances)):
                    self._tend_soon(deployment.id, index)
            elif deployment.updated and deployment.updated + KEPT_AFTER_END < self._clock.now():
                await self._ports.deployments.delete(stored.id, stored.rev)

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
        stored = await self._ports.deployments.get(id)
        if stored is None or index >= len(stored.value.instances):
            self._settle((id, index))
            self._probes.forget((id, index))
            return Rest()
        seen = await self._effects.see(stored.value, index)
        action = lifecycle.step(stored.value, index, seen, self._clock.now())
        if not isinstance(action, Change | Remove):
            self._settle((id, index))
        return await self._effects.carry_out(action, stored, index, kick)

    def _settle(self, *keys: tuple[str, int]) -> None:
        """Note that instances show what is."""
        self._unsettled.difference_update(keys)
        if self._listed and not self._unsettled:
            self._settled.set()
