"""A model in use: who uses it, and the runs on it.

Scoring a few rows takes microseconds and happens on the event loop; a run that is expected to take
longer than `QUICK_S` happens on a worker thread. So do all runs of a model for a while after one on
the event loop was slow.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

from trillium.errors import Cancelled, DeadlineExceeded
from trillium.model.description import ModelDescription
from trillium.rows import Block, Probabilities
from trillium.server.statistics import Statistics, Timing

from .guard import LoopGuard
from .onnx import Classifier, RunHandle

IsLate: TypeAlias = Callable[[], bool]
Run: TypeAlias = Future[Probabilities]
"""A run on the worker's thread."""

QUICK_S = 0.001
"""Runs that are expected to take longer leave the event loop."""
DISTRUST_S = 10.0
"""How long all runs of a model leave the event loop after one there was slow."""


class LoadedModel:
    """A model in use: every use is inside `with model:`, or between `acquire` and `release`."""

    def __init__(self, description: ModelDescription, classifier: Classifier) -> None:
        self.description = description
        self.retired = asyncio.Event()
        """Set when the model is about to go: its users finish what they have and release it."""
        self.statistics = Statistics()
        self._classifier = classifier
        self._distrusted_until = -math.inf
        self._users = 0
        self._runs = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def users(self) -> int:
        """Requests in flight."""
        return self._users

    @property
    def runs(self) -> int:
        """Runs on the worker or in its queue, including those whose callers have gone."""
        return self._runs

    def acquire(self) -> None:
        """Begin to use the model."""
        self._users += 1
        self._unused.clear()

    def release(self) -> None:
        """End a use of the model."""
        self._users -= 1
        self._settle()

    def __enter__(self) -> LoadedModel:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def is_quick(self, row_count: int, now: float) -> bool:
        """Whether `row_count` rows may be scored on the event loop; `now` is monotonic."""
        return self._classifier.cost.of(row_count) <= QUICK_S and now >= self._distrusted_until

    def score_now(self, block: Block, now: float, guard: LoopGuard) -> Probabilities | None:
        """Score on the event loop; values that are no probabilities are left in.

        None if `guard` stopped the run: then it, and all for a while after `now`, leave the loop.
        """
        handle = guard.began()
        try:
            return self._classifier.raw_scores(block.array(), handle)
        except Cancelled:
            self._distrusted_until = now + DISTRUST_S
            return None
        finally:
            guard.ended()

    def score_in(
        self,
        worker: ThreadPoolExecutor,
        block: Block,
        handle: RunHandle,
        is_late: IsLate,
        timing: Timing,
    ) -> asyncio.Future[Probabilities]:
        """Score on the worker, unless `is_late()` when the run's turn comes.

        Cancelling the result cancels a run that has not begun; `handle` stops one that has. The
        model counts as used until the run is over, even if its caller has gone.
        """

        def work() -> Probabilities:
            if is_late():
                raise late()
            timing.left_queue()
            return self._classifier.raw_scores(block.array(), handle)

        loop = asyncio.get_running_loop()
        result: asyncio.Future[Probabilities] = loop.create_future()
        run = worker.submit(work)
        self._runs += 1
        self._unused.clear()
        # Not asyncio.wrap_future, whose callbacks tie both futures, and every frame in an error's
        # traceback, into a cycle.
        result.add_done_callback(partial(_cancel_run, run))
        run.add_done_callback(lambda over: loop.call_soon_threadsafe(self._end_run, result, over))
        return result

    def _end_run(self, result: asyncio.Future[Probabilities], run: Run) -> None:
        self._runs -= 1
        self._settle()
        if result.done():
            return
        if run.cancelled():
            result.cancel()
        elif (error := run.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(run.result())

    def _settle(self) -> None:
        if not self._users and not self._runs:
            self._unused.set()

    async def close_when_unused(self, worker: ThreadPoolExecutor) -> None:
        """Wait for the last user, then free the memory."""
        self.retired.set()
        await self._unused.wait()
        await asyncio.get_running_loop().run_in_executor(worker, self._classifier.close)


def _cancel_run(run: Run, result: asyncio.Future[Probabilities]) -> None:
    if result.cancelled():
        run.cancel()


def late() -> DeadlineExceeded:
    """The error of a run whose turn came too late."""
    return DeadlineExceeded("the deadline passed before the model was run")
