"""A run while this controller works on it: changed by compare-and-set, kept by signs of life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..failpoints import Failpoints
from ..store.records import Stored
from .repository import Runs
from .run import Run, beaten


class RunLost(Exception):
    """The run has ended, or somebody else works on it: stop, and touch nothing of it."""


class HeldRun:
    """The run as it was last written by us; as long as that is its revision, it is ours."""

    def __init__(self, runs: Runs, stored: Stored[Run], failpoints: Failpoints) -> None:
        self._runs = runs
        self._stored = stored
        self._failpoints = failpoints
        self._writing = asyncio.Lock()

    @property
    def run(self) -> Run:
        """The run."""
        return self._stored.value

    async def write(self, change: Callable[[Run], Run], name: str) -> None:
        """Write what `change` makes of the run, between the failpoints run-before-`name` and
        run-after-`name`. Raises RunLost, and has no effect then."""
        async with self._writing:
            after = beaten(change(self._stored.value))
            self._failpoints.passed(f"run-before-{name}")
            written = await self._runs.put(after.id, after, self._stored.rev)
            if written is None:
                raise RunLost(f"run {after.id!r} has changed")
            self._failpoints.passed(f"run-after-{name}")
            self._stored = written

    async def stay(self, beat_s: float) -> None:
        """Give a sign of life every `beat_s` seconds; raises RunLost as soon as it is seen."""
        loop = asyncio.get_running_loop()
        while True:
            beat, due = self.run.lease.beat, loop.time() + beat_s
            try:
                async with asyncio.timeout_at(due):
                    while True:
                        changed = self._runs.changed()
                        await self._check()
                        await changed.wait()
            except TimeoutError:
                # Whatever else was written meanwhile was a sign of life, too.
                if beat == self.run.lease.beat:
                    await self.write(lambda run: run, "beat")

    async def _check(self) -> None:
        async with self._writing:
            stored = await self._runs.get(self.run.id)
            mine = (self._stored.rev, self.run.life)
            if stored is None or (stored.rev, stored.value.life) != mine:
                raise RunLost(f"run {self.run.id!r} has changed")
