"""Holds the one model of a predictor: loads, scores, replaces and unloads it.

Loading happens on a thread of its own, so that the old model goes on scoring meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from trillium.clock import Clock
from trillium.errors import ModelNotLoaded, Overloaded, Overtaken
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.rows import Block, Probabilities
from trillium.server.figures import Family
from trillium.server.statistics import Timing
from trillium.server.tasks import Supervisor

from .figures import ModelFigures
from .guard import LoopGuard
from .lifecycle import SERVING, ModelStage, StageEvent, step
from .loaded import LoadedModel, late
from .onnx import Classifier, RunHandle

log = logging.getLogger(__name__)


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
        """ONNX Runtime uses `threads` threads for one run; at most `max_waiting` slow runs wait for
        the worker; `on_change` is called after every change with whether the model is serving."""
        self._clock = clock
        self._threads = threads
        self._max_waiting = max_waiting
        self._on_change = on_change
        self._figures = ModelFigures()
        self._guard = LoopGuard()
        self._worker = ThreadPoolExecutor(1, "model")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._waiting = 0
        self._model: LoadedModel | None = None
        self._loaded: tuple[str, str, DeclaredFacts] | None = None
        self._tasks = Supervisor()
        self._retiring: dict[asyncio.Task[None], LoadedModel] = {}
        self._state = ModelStage.EMPTY
        self._fence = 0
        self.state_time: datetime = clock.now()

    @property
    def state(self) -> ModelStage:
        """The state of the model."""
        return self._state

    @property
    def model(self) -> LoadedModel:
        """The model that serves; raises ModelNotLoaded if none does."""
        if self._model is None or self._state not in SERVING:
            raise ModelNotLoaded(f"no model is loaded: the predictor is {self._state.value}")
        return self._model

    @property
    def description(self) -> ModelDescription | None:
        """What is loaded, if anything."""
        return None if self._model is None else self._model.description

    @property
    def in_flight(self) -> int:
        """Requests that use a model now: the loaded one, or one that is being retired."""
        current = () if self._model is None else (self._model,)
        return sum(model.users for model in {*current, *self._retiring.values()})

    @property
    def fence(self) -> int:
        """The highest fence of the loads and unloads so far; 0 before the first one."""
        return self._fence

    async def load(
        self, name: str, artifact: bytes, digest: str, declared: DeclaredFacts, *, fence: int = 0
    ) -> ModelDescription:
        """Load an artifact, whose SHA-256 is `digest`, in place of the loaded one.

        The old model serves until the new one is warm; its requests in flight are finished before
        its memory is freed. An artifact that is loaded already with the same facts is not loaded
        again. Cancelling stops the warming up. `fence`, unless it is 0, must not be lower than an
        earlier one. Raises ModelRejected, ModelBusy, Overtaken.
        """
        self._check(fence)
        if self._state is ModelStage.READY and self._loaded == (name, digest, declared):
            self._passed(fence)
            return self.model.description
        self._go(StageEvent.LOAD)
        self._passed(fence)
        handle = RunHandle()
        try:
            new = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._open, name, artifact, digest, declared, handle
            )
        except BaseException:
            handle.stop()
            self._go(StageEvent.FAILED)
            raise
        old, self._model, self._loaded = self._model, new, (name, digest, declared)
        self._go(StageEvent.LOADED)
        if old is not None:
            self._retire(old)
        log.info("model loaded", extra=_facts(new.description))
        return new.description

    async def unload(self, *, fence: int = 0) -> ModelDescription | None:
        """Take no more requests, finish those in flight, free the memory.

        Returns what was unloaded; None if nothing was loaded. Goes on if it is cancelled. `fence`
        is as for `load`. Raises ModelBusy, Overtaken.
        """
        self._check(fence)
        if self._state is ModelStage.EMPTY:
            self._passed(fence)
            return None
        self._go(StageEvent.UNLOAD)
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
        """The probability of each row, as float32 [n], whether or not it is in [0, 1].

        A run that has not begun by `deadline`, on the clock's monotonic time, is dropped with
        DeadlineExceeded. `handle` stops a slow run. Raises ModelFailed, Overloaded, Cancelled.
        """

        began = self._clock.monotonic()
        with model.statistics.asked(block.row_count, self._clock) as timing:
            scores = await self._score(model, block, deadline, handle, timing)
        label = model.description.class_label
        self._figures.ran(label, block.row_count, self._clock.monotonic() - began)
        return scores

    def figures(self) -> Iterable[Family]:
        """What was counted of its models so far."""
        return self._figures.families(self.description, self._waiting)

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
            raise late()
        now = self._clock.monotonic()
        if model.is_quick(block.row_count, now):
            scores = model.score_now(block, now, self._guard)
            if scores is not None:
                return scores
            log.warning("a run on the event loop was slow", extra={"rows": block.row_count})
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
        """Have every stream finish the requests that it holds and end, before the server stops."""
        if self._model is not None:
            self._model.retired.set()

    async def close(self) -> None:
        """Finish the requests in flight, free the memory, end the threads. Not used afterwards."""
        if self._model is not None and self._model not in self._retiring.values():
            self._retire(self._model)
        if self._retiring:
            await asyncio.wait(self._retiring)
        self._loader.shutdown()
        self._worker.shutdown()
        self._guard.close()

    def _open(
        self, name: str, artifact: bytes, digest: str, declared: DeclaredFacts, handle: RunHandle
    ) -> LoadedModel:
        classifier = Classifier(artifact, declared, threads=self._threads, handle=handle)
        facts = classifier.facts
        description = ModelDescription(
            feature_count=classifier.feature_count,
            class_label=facts.class_label,
            feature_names=facts.feature_names,
            ensemble=facts.ensemble,
            class_labels=facts.class_labels,
            sample=facts.sample,
            name=name,
            digest=digest,
            size_bytes=len(artifact),
            input_dtype=classifier.input_dtype,
            takes_missing=bool(facts.takes_missing),
            inferred=classifier.inferred,
            metadata=classifier.metadata,
        )
        return LoadedModel(description, classifier)

    def _retire(self, model: LoadedModel) -> asyncio.Task[None]:
        task = self._tasks.start("model retirement", model.close_when_unused(self._loader))
        self._retiring[task] = model
        task.add_done_callback(self._retiring.pop)
        return task

    def _unloaded(self) -> None:
        self._model = self._loaded = None
        self._go(StageEvent.UNLOADED)

    def _check(self, fence: int) -> None:
        if 0 < fence < self._fence:
            raise Overtaken(f"fence is {fence}; expected at least {self._fence}, which came before")

    def _passed(self, fence: int) -> None:
        """Remember the fence of a call that takes effect from now on."""
        self._fence = max(self._fence, fence)

    def _go(self, event: StageEvent) -> None:
        self._state = step(self._state, event)
        self.state_time = self._clock.now()
        self._on_change(self._state in SERVING)


def _facts(description: ModelDescription) -> dict[str, object]:
    return {
        "model": description.name,
        "digest": description.digest,
        "class_label": description.class_label,
        "bytes": description.size_bytes,
        **({"inferred": description.inferred} if description.inferred else {}),
    }
