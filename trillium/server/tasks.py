"""Background tasks that never end unseen: the one place that starts them, watches them, ends them.

A task that raises without anybody waiting for it ends without a line. So a loop that must go on is
kept by a `Supervisor`, which logs what ended it, starts it again after a pause, and reports when
it keeps failing; work that is done once and waited for by nobody is started by one, which logs its
error; and a task that belongs to one piece of code lives in a `background` block.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Expected: TypeAlias = type[Exception] | tuple[type[Exception], ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a loop that failed is started again."""

    first_s: float = 0.1
    """Pause after the first failure; each further one doubles it."""
    longest_s: float = 10.0
    """No pause is longer. A loop that ran for longer than this before it failed counts as new."""
    failing_after: int = 3
    """After this number of failures in a row, the loop counts as failing."""

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after `failures` in a row (at least 1)."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))


class Supervisor:
    """The background tasks of one owner. They run until they end or `close` ends them."""

    def __init__(
        self,
        on_failing: Callable[[str, bool], None] = lambda name, failing: None,
        backoff: Backoff = Backoff(),
    ) -> None:
        """`on_failing` is called with the name of a loop and True when it begins to keep failing,
        and with False when it has recovered: as `Health.report` is."""
        self._on_failing = on_failing
        self._backoff = backoff
        self._tasks: dict[asyncio.Task[Any], Expected] = {}
        self._failing: set[str] = set()

    @property
    def running(self) -> frozenset[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return frozenset(self._tasks)

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `work` for good: whatever ends it but `close` or its task's cancellation is logged
        with `name`, and it is started again."""
        return self.start(name, self._kept(name, work))

    def start(
        self,
        name: str,
        work: Coroutine[Any, Any, T],
        expected: Expected = (),
    ) -> asyncio.Task[T]:
        """Run `work` once; an error that ends it is logged with `name`, unless it is one of
        `expected`, which are left to those who wait for the task."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = expected
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel every task and wait until all have ended. Nothing is started afterwards."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.remove_done_callback(self._ended)
        self._tasks.clear()
        await end(*tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        _log_failure(task, self._tasks.pop(task))

    async def _kept(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began = clock()
            # What has run this long has recovered, whether or not it fails again.
            recovery = asyncio.get_running_loop().call_later(
                self._backoff.longest_s, self._set_failing, name, False
            )
            try:
                await work()
                error: BaseException | None = None
            except asyncio.CancelledError as cancelled:
                if is_asked_to_end():
                    self._set_failing(name, False)
                    raise
                # Something that the loop waited for was cancelled, not the loop.
                error = cancelled
            except Exception as raised:
                error = raised
            finally:
                recovery.cancel()
            failures = 1 if clock() - began > self._backoff.longest_s else failures + 1
            pause_s = self._backoff.pause_s(failures) * random.uniform(0.8, 1.2)
            text = "failed" if error else "ended before its time"
            extra = {"task": name, "failures": failures, "restart_s": round(pause_s, 3)}
            log.error(f"background task {text}: {name}", extra=extra, exc_info=error)
            if failures >= self._backoff.failing_after:
                self._set_failing(name, True)
            await asyncio.sleep(pause_s)

    def _set_failing(self, name: str, failing: bool) -> None:
        if failing != (name in self._failing):
            (self._failing.add if failing else self._failing.discard)(name)
            self._on_failing(name, failing)


@asynccontextmanager
async def background(name: str, work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` during a block, which may wait for it; leaving the block ends it.

    An error that the block does not retrieve is logged with `name`: by asyncio if it was raised
    during the block, otherwise here.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await end(task)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until all have ended; what they raise instead is logged."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        _log_failure(task)


def _log_failure(task: asyncio.Task[Any], expected: Expected = ()) -> None:
    name = task.get_name()
    if task.cancelled():
        if not task.cancelling():
            log.error(f"background task was cancelled from within: {name}", extra={"task": name})
    elif (error := task.exception()) and not isinstance(error, expected):
        log.error(f"background task failed: {name}", extra={"task": name}, exc_info=error)


def is_asked_to_end() -> bool:
    """Whether the calling task is being cancelled. A CancelledError in one that is not comes from
    something that it waited for, as a call whose channel was closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
