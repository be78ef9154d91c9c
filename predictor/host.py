"""Holds the one model of a predictor: loads, scores, replaces, unloads, and counts who is using it.

Scoring a few rows takes microseconds and happens right here on the event loop; what is expected to
take longer than `QUICK_S` leaves it for the one worker thread. Loading always leaves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeAlias, TypeVar

from predictor.artifact import Facts
from predictor.lifecycle import SERVING, Event, State, step
from predictor.onnx import Classifier, RunHandle
from trillium.clock import Clock
from trillium.errors import DeadlineExceeded, ModelNotLoaded, Overloaded, Overtaken
from trillium.rows import Block, Probabilities
from trillium.statistics import Statistics, Timing

log = logging.getLogger(__name__)

T = TypeVar("T")
IsLate: TypeAlias = Callable[[], bool]
Run: TypeAlias = Future[Probabilities]
"""A run on the worker's thread."""

QUICK_S = 0.001
"""Runs that are expected to take longer leave the event loop."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a loaded model is."""

    name: str
    digest: str
    """SHA-256 of the artifact, hexadecimal."""
    size_bytes: int
    feature_count: int
    input_dtype: str
    facts: Facts


class LoadedModel:
    """A model in use. Whoever uses it does so inside `with model:`, or acquires and releases it."""

    def __init__(self, description: Description, classifier: Classifier) -> None:
        self.description = description
        self.retired = asyncio.Event()
        """Set when the model is about to go: finish what you have and let it go."""
        self.statistics = Statistics()
        self._classifier = classifier
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
        """Runs that are on the worker or wait for it, also those that nobody waits for any more."""
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

    def is_quick(self, row_count: int) -> bool:
        """Whether so many rows may be scored on the event loop."""
        return self._classifier.cost.of(row_count) <= QUICK_S

    def score_now(self, block: Block) -> Probabilities:
        """Score on the calling thread; values that are no probabilities are left in."""
        return self._classifier.raw_scores(block.array())

    def score_in(
        self,
        worker: ThreadPoolExecutor,
        block: Block,
        handle: RunHandle,
        is_late: IsLate,
        timing: Timing,
    ) -> asyncio.Future[Probabilities]:
        """Score on the worker, unless `is_late` says so when its turn comes.

        Cancelling the answer takes back a run that has not begun; `handle` stops one that has. The
        model counts as used until the run is over, whoever still waits for it.
        """

        def work() -> Probabilities:
            if is_late():
                raise _late()
            timing.left_queue()
            return self._classifier.raw_scores(block.array(), handle)

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Probabilities] = loop.create_future()
        run = worker.submit(work)
        self._runs += 1
        self._unused.clear()
        # Not asyncio.wrap_future, whose callbacks tie both futures and all that an error has seen
        # into a cycle.
        answer.add_done_callback(partial(_take_back, run))
        run.add_done_callback(lambda over: loop.call_soon_threadsafe(self._end_run, answer, over))
        return answer

    def _end_run(self, answer: asyncio.Future[Probabilities], run: Run) -> None:
        self._runs -= 1
        self._settle()
        if answer.done():
            return
        if run.cancelled():
            answer.cancel()
        elif (error := run.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(run.result())

    def _settle(self) -> None:
        if not self._users and not self._runs:
            self._unused.set()

    async def close_when_unused(self, worker: ThreadPoolExecutor) -> None:
        """Wait for the last user, then free the memory."""
        self.retired.set()
        await self._unused.wait()
        await asyncio.get_running_loop().run_in_executor(worker, self._classifier.close)


def _take_back(run: Run, answer: asyncio.Future[Probabilities]) -> None:
    if answer.cancelled():
        run.cancel()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model was run")


class ModelHost:
    """The model of this predictor, and its life."""

    def __init__(
        self,
        *,
        clock: Clock,
        threads: int = 1,
        max_waiting: int = 64,
        on_change: Callable[[bool], None] = lambda serving: None,
    ) -> None:
        """`threads` are ONNX Runtime's for one run; at most `max_waiting` slow runs may wait for
        the worker; `on_change` is told whether the model is serving."""
        self._clock = clock
        self._threads = threads
        self._max_waiting = max_waiting
        self._on_change = on_change
        self._worker = ThreadPoolExecutor(1, "model")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._waiting = 0
        self._model: LoadedModel | None = None
        self._loaded: tuple[str, str, Facts] | None = None
        self._retiring: dict[asyncio.Task[None], LoadedModel] = {}
        self._state = State.EMPTY
        self._fence = 0
        self.state_time: datetime = clock.now()

    @property
    def state(self) -> State:
        """Where the model is in its life."""
        return self._state

    @property
    def model(self) -> LoadedModel:
        """The model that serves; raises ModelNotLoaded if none does."""
        if self._model is None or self._state not in SERVING:
            raise ModelNotLoaded(f"no model is loaded: the predictor is {self._state.value}")
        return self._model

    @property
    def description(self) -> Description | None:
        """What is loaded, if anything."""
        return None if self._model is None else self._model.description

    @property
    def in_flight(self) -> int:
        """Requests that use a model now: the loaded one, or one that is on its way out."""
        current = () if self._model is None else (self._model,)
        return sum(model.users for model in {*current, *self._retiring.values()})

    @property
    def fence(self) -> int:
        """The highest fence of a load or unload that was carried out; 0 before the first one."""
        return self._fence

    async def load(
        self, name: str, artifact: bytes, digest: str, said: Facts, *, fence: int = 0
    ) -> Description:
        """Load an artifact, whose SHA-256 is `digest`, and put it in the place of what is loaded.

        The old model serves until the new one is warm; its requests in flight are finished before
        its memory is freed. What is loaded already is not loaded again. Cancelling stops the
        warming up. `fence`, unless it is 0, has to be at least as high as any before it. Raises
        ModelRejected, ModelBusy, Overtaken.
        """
        self._check(fence)
        if self._state is State.READY and self._loaded == (name, digest, said):
            self._passed(fence)
            return self.model.description
        self._go(Event.LOAD)
        self._passed(fence)
        handle = RunHandle()
        try:
            new = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._open, name, artifact, digest, said, handle
            )
        except BaseException:
            handle.stop()
            self._go(Event.FAILED)
            raise
        old, self._model, self._loaded = self._model, new, (name, digest, said)
        self._go(Event.LOADED)
        if old is not None:
            self._retire(old)
        log.info("model loaded", extra=_facts(new.description))
        return new.description

    async def unload(self, *, fence: int = 0) -> Description | None:
        """Take no more requests, finish those in flight, free the memory.

        Answers what was unloaded; None if nothing was loaded. Goes on when its caller goes away.
        `fence` is as for `load`. Raises ModelBusy, Overtaken.
        """
        self._check(fence)
        if self._state is State.EMPTY:
            self._passed(fence)
            return None
        self._go(Event.UNLOAD)
        self._passed(fence)
        model = self._model
        assert model is not None, "READY means that there is a model"
        retirement = self._retire(model)
        retirement.add_done_callback(lambda _: self._unloaded())
        await asyncio.shield(retirement)
        log.info("model unloaded", extra=_facts(model.description))
        return model.description

    async def score(
        self, model: LoadedModel, block: Block, deadline: float, handle: RunHandle | None = None
    ) -> Probabilities:
        """The probability of each row, as float32 [n]; values that are none are left in.

        Work that has not begun by `deadline`, on the clock's monotonic time, is dropped with
        DeadlineExceeded. `handle` stops a slow run. Raises ModelFailed, Overloaded, Cancelled.
        """

        with model.statistics.asked(block.row_count, self._clock) as timing:
            return await self._score(model, block, deadline, handle, timing)

    async def _score(
        self,
        model: LoadedModel,
        block: Block,
        deadline: float,
        handle: RunHandle | None,
        timing: Timing,
    ) -> Probabilities:
        def is_late() -> bool:
            return self._clock.monotonic() >= deadline

        if is_late():
            raise _late()
        if model.is_quick(block.row_count):
            return model.score_now(block)
        if self._waiting >= self._max_waiting:
            text = f"{self._waiting} runs wait for the model already"
            raise Overloaded(text, retry_after_s=0.1)
        handle = handle or RunHandle()
        self._waiting += 1
        try:
            return await model.score_in(self._worker, block, handle, is_late, timing)
        except asyncio.CancelledError:
            handle.stop()
            raise
        finally:
            self._waiting -= 1

    def end_streams(self) -> None:
        """Have every stream finish what it took and end, before the server stops."""
        if self._model is not None:
            self._model.retired.set()

    async def close(self) -> None:
        """Finish what is in flight, free the memory, end the threads. Not used afterwards."""
        if self._model is not None and self._model not in self._retiring.values():
            self._retire(self._model)
        await asyncio.gather(*self._retiring)
        self._loader.shutdown()
        self._worker.shutdown()

    def _open(
        self, name: str, artifact: bytes, digest: str, said: Facts, handle: RunHandle
    ) -> LoadedModel:
        classifier = Classifier(artifact, said, threads=self._threads, handle=handle)
        description = Description(
            name=name,
            digest=digest,
            size_bytes=len(artifact),
            feature_count=classifier.feature_count,
            input_dtype=classifier.input_dtype,
            facts=classifier.facts,
        )
        return LoadedModel(description, classifier)

    def _retire(self, model: LoadedModel) -> asyncio.Task[None]:
        task = asyncio.create_task(model.close_when_unused(self._loader))
        self._retiring[task] = model
        task.add_done_callback(self._retiring.pop)
        return task

    def _unloaded(self) -> None:
        self._model = self._loaded = None
        self._go(Event.UNLOADED)

    def _check(self, fence: int) -> None:
        if 0 < fence < self._fence:
            text = f"fence is {fence}; a load or unload with fence {self._fence} came before"
            raise Overtaken(text)

    def _passed(self, fence: int) -> None:
        """Remember the fence of what is carried out from now on."""
        self._fence = max(self._fence, fence)

    def _go(self, event: Event) -> None:
        self._state = step(self._state, event)
        self.state_time = self._clock.now()
        self._on_change(self._state in SERVING)


def _facts(description: Description) -> dict[str, object]:
    return {
        "model": description.name,
        "digest": description.digest,
        "class_label": description.facts.class_label,
        "bytes": description.size_bytes,
    }
