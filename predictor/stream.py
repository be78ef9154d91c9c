"""One PredictStream: messages in, answers out, withdrawals honoured, no more held than allowed.

A reader takes messages off the wire while the model runs, so that a withdrawal is heard at once.
When `MAX_HELD` requests wait, it stops reading and the transport holds the caller back.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator

from predictor.host import LoadedModel
from predictor.onnx import RunHandle
from trillium.clock import Clock
from trillium.predictor.v1 import predictor_service_pb2 as pb

MAX_HELD = 64


class StreamInbox:
    """The requests of one stream, each counted as a use of the model from arrival to `done`."""

    def __init__(
        self, messages: AsyncIterator[pb.PredictStreamRequest], model: LoadedModel, clock: Clock
    ) -> None:
        self._model = model
        self._clock = clock
        self._held: deque[tuple[pb.PredictStreamRequest, float]] = deque()
        self._taken_back: set[int] = set()
        self._running: tuple[int, RunHandle] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader = asyncio.create_task(self._read(messages))
        self._reader.add_done_callback(lambda _: self._changed.set())
        self._retired = asyncio.create_task(model.retired.wait())
        self._retired.add_done_callback(lambda _: self._changed.set())

    async def next(self) -> tuple[pb.PredictStreamRequest, float] | None:
        """The next request and its deadline on the clock's monotonic time.

        None when the caller is done or the model is about to go.
        Raises what reading raised. Every request must be given to `done`.
        """
        while not self._held:
            if self._model.retired.is_set():
                return None
            if self._reader.done():
                self._reader.result()
                return None
            self._changed.clear()
            await self._changed.wait()
        held = self._held.popleft()
        self._room.set()
        return held

    def was_taken_back(self, request: pb.PredictStreamRequest) -> bool:
        """Whether the caller has withdrawn `request` since it came."""
        return request.request_number in self._taken_back

    def running(self, request: pb.PredictStreamRequest, handle: RunHandle) -> None:
        """Say that `request` is being scored, and how to stop that."""
        self._running = (request.request_number, handle)

    def done(self, request: pb.PredictStreamRequest) -> None:
        """Say that `request` needs the model no more."""
        self._running = None
        self._taken_back.discard(request.request_number)
        self._model.release()

    def close(self) -> None:
        """Stop reading, stop what runs and let go of the model."""
        self._reader.cancel()
        self._retired.cancel()
        if self._running is not None:
            self._running[1].stop()
        for _ in self._held:
            self._model.release()
        self._held.clear()
        # What reading raised has a frame of this inbox in its traceback: a cycle.
        del self._reader, self._retired

    async def _read(self, messages: AsyncIterator[pb.PredictStreamRequest]) -> None:
        async for message in messages:
            if message.WhichOneof("action") == "cancel":
                self._take_back(message.request_number)
                continue
            if self._model.retired.is_set():
                return
            self._model.acquire()
            self._held.append((message, self._deadline(message)))
            self._changed.set()
            # Not to be kept until the next one comes.
            del message
            while len(self._held) >= MAX_HELD:
                self._room.clear()
                await self._room.wait()

    def _take_back(self, number: int) -> None:
        if self._running is not None and self._running[0] == number:
            self._running[1].stop()
        elif any(request.request_number == number for request, _ in self._held):
            self._taken_back.add(number)

    def _deadline(self, message: pb.PredictStreamRequest) -> float:
        if not message.timeout_us:
            return math.inf
        return self._clock.monotonic() + message.timeout_us / 1e6
