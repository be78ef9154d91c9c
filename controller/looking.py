"""Fresh looks at the runtime, shared by all who ask for one at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.runtime.port import Container, Runtime, RuntimeUnreachable
from trillium.clock import Clock


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether the runtime answers."""

    holds: bool
    detail: str
    since: datetime


class Looker:
    """Looks that began after they were asked for: what was seen before a document was read says
    nothing about what to do next."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._running: asyncio.Task[Sequence[Container]] | None = None
        self._waiting: asyncio.Task[Sequence[Container]] | None = None
        self.reachability = Reachability(True, "not looked yet", clock.now())

    async def look(self) -> Sequence[Container]:
        """Every container of ours, seen after this call began. Raises RuntimeUnreachable."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._after(self._running))
        return await asyncio.shield(self._waiting)

    async def _after(
        self, running: asyncio.Task[Sequence[Container]] | None
    ) -> Sequence[Container]:
        if running is not None:
            await asyncio.wait((running,))
        self._running, self._waiting = self._waiting, None
        try:
            containers = await self._runtime.look()
        except RuntimeUnreachable as error:
            self._note(False, str(error))
            raise
        self._note(True, "")
        return containers

    def _note(self, holds: bool, detail: str) -> None:
        changed = holds != self.reachability.holds
        since = self._clock.now() if changed else self.reachability.since
        self.reachability = Reachability(holds, detail, since)
