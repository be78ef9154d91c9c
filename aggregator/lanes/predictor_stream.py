"""One open stream to a predictor: a batch goes out, its answer comes back, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.server.tasks import Supervisor, is_asked_to_end
from trillium.tensor.v1 import tensor_pb2

from .batch import Batch

log = logging.getLogger(__name__)

STREAM = "/trillium.predictor.v1.PredictorService/PredictStream"

OVERDUE_S = 1.0
"""A predictor drops what is late or withdrawn and answers so. One that has not answered this long
after the last caller of a batch went away is asked for its health: it works as long as it answers
within the same time, and otherwise it hangs, and the connection to it is given up."""
LONGEST_RUN_S = 600.0
"""A predictor that works on what nobody waits for any longer is given up after this time."""
_MADE_UP = "Internal error from Core"
"""What grpc.aio reports when the other side ends a stream, however well, in the middle of a write:
it overwrites the status that came. Asking the predictor anew shows how the stream ended."""
_ENDED = "the predictor ended the stream"


class LinkBroken(Exception):
    """The predictor cannot be asked. Its text is the reason, for a person."""

    def __init__(self, reason: str, note: str = "", *, took: bool = True) -> None:
        """`note` describes it to the callers of the batch in flight, and `took` is whether the
        predictor may have taken that batch."""
        super().__init__(reason)
        self.note = note or reason
        self.took = took


class StreamEnded(Exception):
    """The predictor ended the stream in good order, and has not taken the batch in flight."""


class PredictorStream:
    """A stream that is open. Used by one task."""

    def __init__(self, channel: aio.Channel, address: str, tasks: Supervisor) -> None:
        self._address = address
        self._health = HealthStub(channel)
        self._stream: Any = channel.stream_stream(STREAM)()
        self._tasks = tasks
        self._number = 0
        self._writing = asyncio.Lock()
        """Held during a write: grpc.aio allows one at a time."""

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return bool(self._stream.done())

    def on_end(self, wake: Callable[[], None]) -> None:
        """Call `wake` when it ends."""
        self._stream.add_done_callback(lambda _: wake())

    def close(self) -> None:
        """End it; what is in flight is given up."""
        self._stream.cancel()

    async def ended(self) -> None:
        """Return if it ended in good order. Raises LinkBroken."""
        if detail := await self._how_it_ended():
            raise LinkBroken(detail)

    async def exchange(self, batch: Batch, left_s: float) -> pb.PredictStreamResponse:
        """Send a batch, which may take `left_s` seconds, and return the answer.

        When nobody waits for the batch any more, the predictor is notified, and the stream is
        given up if no answer follows. Raises LinkBroken and StreamEnded.
        """
        self._number += 1
        number = self._number
        watches: list[asyncio.Task[None]] = []
        batch.sent_to(self._address, lambda: watches.append(self._withdraw(number)))
        try:
            async with self._writing:
                await self._stream.write(_request(number, batch, left_s))
            reply = await self._stream.read()
            if reply is aio.EOF:
                raise StreamEnded("the predictor's model was unloaded or replaced")
            answer = pb.PredictStreamResponse.FromString(reply)
        except aio.AioRpcError as error:
            if error.details() == _MADE_UP:
                raise StreamEnded(_ENDED) from error
            reason = described(error)
            raise LinkBroken(reason, f"the connection was lost: {reason}") from error
        except DecodeError as error:
            note = "the predictor's answer was not a message"
            raise LinkBroken("answered what is not a message", note) from error
        except (aio.InternalError, asyncio.InvalidStateError) as error:
            # The stream had ended before the write began, or ended just then.
            if detail := await self._how_it_ended():
                raise LinkBroken(detail, took=False) from error
            raise StreamEnded(_ENDED) from error
        except asyncio.CancelledError:
            if is_asked_to_end():
                raise
            # grpc.aio raises this for a stream that was cancelled, too.
            raise LinkBroken("hangs: it did not answer in time", "the predictor hangs") from None
        finally:
            for watch in watches:
                watch.cancel()
            batch.came_back()
        if answer.request_number != number:
            reason = f"answered request {answer.request_number}, not {number}"
            raise LinkBroken(reason, "the predictor answered another request")
        return answer

    def _withdraw(self, number: int) -> asyncio.Task[None]:
        """Let the predictor know that nobody waits; the task gives up one that hangs."""
        self._tasks.start(f"withdrawal from {self._address}", self._send_withdrawal(number))
        return self._tasks.start(f"watch over {self._address}", self._give_up_if_it_hangs())

    async def _give_up_if_it_hangs(self) -> None:
        """Cancel the stream unless the predictor shows that it works: a model's operator that
        takes long cannot be stopped, and whoever waits behind it is not to suffer for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_RUN_S):
                works = True
                while works:
                    await asyncio.sleep(OVERDUE_S)
                    works = await self._answers()
        self._stream.cancel()

    async def _answers(self) -> bool:
        """Whether the predictor reports its health; one that has none looks like one
        that hangs."""
        try:
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=OVERDUE_S)
        except aio.AioRpcError:
            return False
        return True

    async def _send_withdrawal(self, number: int) -> None:
        message = pb.PredictStreamRequest(request_number=number, cancel=pb.Cancel())
        try:
            async with self._writing:
                await self._stream.write(message.SerializeToString())
        except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError) as error:
            # The stream is gone, and with it what was to be withdrawn.
            log.debug("withdrawal not sent", extra={"address": self._address, "detail": str(error)})
        except asyncio.CancelledError:
            if is_asked_to_end():
                raise
            # The stream was given up meanwhile.

    async def _how_it_ended(self) -> str:
        """Why the stream ended; empty when it ended in good order, or nobody knows."""
        code, details = await self._stream.code(), await self._stream.details()
        if code is grpc.StatusCode.OK or details == _MADE_UP:
            return ""
        return f"{code.name}: {shortened(details)}"


def described(error: aio.AioRpcError) -> str:
    """A failed call, for a person."""
    details = error.details() or ""
    if "Connection refused" in details:
        return "connection refused"
    return f"{error.code().name}: {shortened(details)}"


def shortened(text: str) -> str:
    """`text` cut to what fits into the trailers of a call that lists several predictors."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def _request(number: int, batch: Batch, left_s: float) -> bytes:
    block = batch.block
    matrix = tensor_pb2.Float32Matrix(
        row_count=block.row_count, column_count=block.column_count, data=block.data
    )
    message = pb.PredictStreamRequest(
        request_number=number,
        matrix=matrix,
        timeout_us=max(1, int(left_s * 1e6)),
        request_ids=batch.trace_ids,
    )
    return message.SerializeToString()
