"""Fresh lists of the runtime's containers, shared by all who ask for one at about the same time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from trillium.clock import Clock
from trillium.server.tasks import Supervisor

from ..runtime.port import Container, Runtime, RuntimeUnreachable
from .document import Key

Containers: TypeAlias = Mapping[Key, Sequence[Container]]


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether the runtime answers."""

    holds: bool
    detail: str
    since: datetime


class Inventory:
    """Lists containers by looks that begin after the call: what was seen before a document was read
    does not decide what to do next. A context; leaving it ends looks in flight."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._tasks = Supervisor()
        self._running: asyncio.Task[Containers] | None = None
        self._waiting: asyncio.Task[Containers] | None = None
        self.reachability = Reachability(True, "not looked yet", clock.now())

    async def __aenter__(self) -> Inventory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    async def look(self) -> Containers:
        """Every container of ours by its instance, seen after this call began. Raises
        RuntimeUnreachable."""
        if self._waiting is None:
            work = self._after(self._running)
            self._waiting = self._tasks.start("look at the runtime", work, RuntimeUnreachable)
        return await asyncio.shield(self._waiting)

    async def _after(self, running: asyncio.Task[Containers] | None) -> Containers:
        if running is not None:
            await asyncio.wait((running,))
        self._running, self._waiting = self._waiting, None
        try:
            containers = await self._runtime.look()
        except RuntimeUnreachable as error:
            self._note(False, str(error))
            raise
        self._note(True, "")
        found: dict[Key, list[Container]] = defaultdict(list)
        for each in containers:
            found[each.deployment, each.instance].append(each)
        return dict(found)

    def _note(self, holds: bool, detail: str) -> None:
        changed = holds != self.reachability.holds
        since = self._clock.now() if changed else self.reachability.since
        self.reachability = Reachability(holds, detail, since)
