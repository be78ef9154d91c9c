"""The requests of one PredictStream: withdrawals take effect at once, and few requests are held.

A reader takes messages off the wire while the model runs, so that a withdrawal is noticed at once.
When `MAX_HELD` requests wait, it stops reading and the transport holds the caller back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from trillium.server.tasks import background

from .loaded import LoadedModel
from .onnx import RunHandle

MAX_HELD = 64

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The caller no longer waits for the request of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A matrix to score, not checked yet."""

    number: int
    row_count: int
    column_count: int
    data: bytes
    deadline: float
    """On the clock's monotonic time; infinite if there is none."""
    request_ids: tuple[str, ...]
    arrived: float = 0.0
    """On the clock's monotonic time."""


class StreamInbox:
    """The requests of one stream, each counted as a use of the model from arrival to `done`."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._held: deque[StreamRequest] = deque()
        self._withdrawn: set[int] = set()
        self._running: tuple[int, RunHandle] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def reading(
        self, messages: AsyncIterator[M], parse: Callable[[M], StreamRequest | Withdrawal]
    ) -> AsyncIterator[None]:
        """Read inside the context; leaving it stops what runs and releases the model."""
        reading = background("stream reader", self._read(messages, parse))
        retirement = background("stream retirement", self._model.retired.wait())
        async with reading as reader, retirement as retired:
            self._reader = reader
            for task in (reader, retired):
                task.add_done_callback(lambda _: self._changed.set())
            try:
                yield
            finally:
                # What reading raised has a frame of this inbox in its traceback: a cycle.
                self._reader = None
                del reader, retired, task
                self._release()

    async def next(self) -> StreamRequest | None:
        """The next request; None when the caller is done or the model is about to go.

        Raises what reading raised. Every request must be given to `done`.
        """
        while not self._held:
            if self._model.retired.is_set() or self._reader is None:
                return None
            if self._reader.done():
                self._reader.result()
                return None
            self._changed.clear()
            await self._changed.wait()
        request = self._held.popleft()
        self._room.set()
        return request

    def is_withdrawn(self, request: StreamRequest) -> bool:
        """Whether the caller has withdrawn `request` since it came."""
        return request.number in self._withdrawn

    def running(self, request: StreamRequest, handle: RunHandle) -> None:
        """Note that `request` is being scored, and how to stop that."""
        self._running = (request.number, handle)

    def done(self, request: StreamRequest) -> None:
        """Note that `request` no longer needs the model."""
        self._running = None
        self._withdrawn.discard(request.number)
        self._model.release()

    def _release(self) -> None:
        if self._running is not None:
            self._running[1].stop()
        for _ in self._held:
            self._model.release()
        self._held.clear()

    async def _read(
        self, messages: AsyncIterator[M], parse: Callable[[M], StreamRequest | Withdrawal]
    ) -> None:
        async for message in messages:
            request = parse(message)
            if isinstance(request, Withdrawal):
                self._withdraw(request.number)
                continue
            if self._model.retired.is_set():
                return
            self._model.acquire()
            self._held.append(request)
            self._changed.set()
            # Must not be kept alive until the next one comes.
            del message, request
            while len(self._held) >= MAX_HELD:
                self._room.clear()
                await self._room.wait()

    def _withdraw(self, number: int) -> None:
        if self._running is not None and self._running[0] == number:
            self._running[1].stop()
        elif any(request.number == number for request in self._held):
            self._withdrawn.add(number)
