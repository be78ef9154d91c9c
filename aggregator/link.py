"""The way to one predictor: one channel, one open stream, one batch in flight.

A link reaches its predictor, asks what model it has, opens a stream, and then takes batches from
its class's lane for as long as the stream holds. One task does all of it, so writes to the stream
follow one another; grpc.aio allows one at a time. When the connection breaks the link says so to
the roster, gives back what was under way, and tries again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Set
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc import aio

from aggregator.batching import Batch, Lane, Pace, Part
from aggregator.roster import Described, Endpoint, Roster
from trillium.clock import Clock
from trillium.errors import Code
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.rows import WIRE_DTYPE, are_probabilities
from trillium.rpc.status import code_of
from trillium.tensor.v1 import tensor_pb2

log = logging.getLogger(__name__)

STREAM = "/trillium.predictor.v1.PredictorService/PredictStream"

DESCRIBE_S = 2.0
"""How long a predictor may take to say what it has."""
OVERDUE_S = 1.0
"""A predictor drops what is late or withdrawn and says so. One that has not spoken so long after
the last caller of a batch went away hangs, and the connection to it is given up."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
MOST_MOVES = 8
"""A predictor that ends its stream in good order did not take what it has not answered. A request
that so many have sent on meets a fault, not a rollout."""
_MADE_UP = "Internal error from Core"
"""What grpc.aio says when the other side ends a stream, however well, in the middle of a write: it
overwrites the status that came. How the stream ended shows when the predictor is asked anew."""
RECHECK_S = 1.0
"""How often a predictor whose model does not fit is asked whether that has changed."""


class LinkBroken(Exception):
    """The predictor cannot be asked. `str()` of it says why, for a person."""


class Link:
    """Carries one predictor's share of a class's load."""

    def __init__(
        self,
        endpoint: Endpoint,
        lane: Lane,
        roster: Roster,
        *,
        open_channel: Callable[[str], aio.Channel],
        clock: Clock,
    ) -> None:
        self._endpoint = endpoint
        self._lane = lane
        self._roster = roster
        self._open_channel = open_channel
        self._clock = clock
        self._number = 0
        self.wake: Callable[[], None] = lambda: None
        """Has an idle link look again whether its predictor may still be asked."""
        self._writing = asyncio.Lock()
        self._withdrawals: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the link up until cancelled, or until the roster knows its predictor no more.

        Then the batch in flight is finished first, and whatever waits is left to other links.
        """
        pause_s = FIRST_PAUSE_S
        while self._roster.knows(self._endpoint):
            began = self._clock.monotonic()
            try:
                await self._session()
            except LinkBroken as broken:
                if self._roster.lost(self._endpoint, str(broken)):
                    log.info("predictor lost", extra={**self._facts(), "detail": str(broken)})
            except Exception:
                self._roster.lost(self._endpoint, "internal error of the aggregator; see its log")
                log.exception("a link failed", extra=self._facts())
            self._fail_what_has_no_hope()
            if not self._roster.knows(self._endpoint):
                return
            if self._clock.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _session(self) -> None:
        """From reaching the predictor to the end of its stream; raises LinkBroken."""
        async with self._open_channel(self._endpoint.address) as channel:
            described = await self._describe(channel)
            self._roster.reached(self._endpoint, described)
            if not self._roster.is_ready(self._endpoint):
                self._fail_what_has_no_hope()
                await asyncio.sleep(RECHECK_S)
                return
            log.info("predictor ready", extra={**self._facts(), "digest": described.digest})
            stream: Any = channel.stream_stream(STREAM)()
            try:
                await self._carry(stream)
            finally:
                stream.cancel()
        self._roster.connecting(self._endpoint, "its model was unloaded or replaced")

    async def _describe(self, channel: aio.Channel) -> Described:
        try:
            stub = ModelServiceStub(channel)
            answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=DESCRIBE_S)
        except aio.AioRpcError as error:
            raise LinkBroken(_told(error)) from error
        if answer.state != model_pb.MODEL_STATE_READY:
            name = model_pb.ModelState.Name(answer.state).removeprefix("MODEL_STATE_").lower()
            raise LinkBroken(f"has no model ready: it is {name}")
        model = answer.model
        return Described(
            digest=model.digest,
            class_label=model.class_label,
            feature_count=model.feature_count,
            ensemble=model.ensemble,
            feature_names=tuple(model.feature_names),
            sample=tuple(model.sample),
            ensemble_class_labels=tuple(model.ensemble_class_labels),
        )

    async def _carry(self, stream: Any) -> None:
        """Carry batches until the predictor ends the stream in good order; raises LinkBroken."""
        free: asyncio.Future[None] | None = None
        pace = Pace()

        def wake(_: Any) -> None:
            if free is not None and not free.done():
                free.set_result(None)

        stream.add_done_callback(wake)
        self.wake = lambda: wake(None)
        try:
            while self._roster.is_ready(self._endpoint):
                if stream.done():
                    await self._ended(stream)
                    return
                batch = await self._lane.gather(pace)
                if batch is not None:
                    began = self._clock.monotonic()
                    if not await self._exchange(stream, batch):
                        return
                    pace = Pace(len(batch.parts), self._clock.monotonic() - began)
                    # Not to be kept for as long as nothing else comes.
                    del batch
                    continue
                free = self._lane.work()
                await free
        finally:
            if free is not None:
                self._lane.leave(free)
            # This link may have been woken for work that it now leaves to another one.
            self._lane.wake()

    async def _exchange(self, stream: Any, batch: Batch) -> bool:
        """Send a batch and settle it with the answer; False when the stream ended in good order.

        Whatever else happens, the batch is settled or given back. Raises LinkBroken.
        """
        self._number += 1
        number = self._number
        batch.sent_to(self._endpoint.address)
        timers: list[asyncio.TimerHandle] = []
        batch.on_abandoned = lambda: timers.append(self._withdraw(stream, number))
        left_s = max(0.0, batch.deadline - self._clock.monotonic())
        try:
            async with self._writing:
                await stream.write(_request(number, batch, left_s))
            reply = await stream.read()
            if reply is aio.EOF:
                self._send_on(batch, "the predictor's model was unloaded or replaced")
                return False
            self._settle(batch, number, pb.PredictStreamResponse.FromString(reply))
            return True
        except aio.AioRpcError as error:
            if error.details() == _MADE_UP:
                self._send_on(batch, "the predictor ended the stream")
                return False
            self._give_back(batch, f"the connection was lost: {_told(error)}")
            raise LinkBroken(_told(error)) from error
        except DecodeError as error:
            self._give_back(batch, "the predictor's answer was no message")
            raise LinkBroken("answered what is no message") from error
        except (aio.InternalError, asyncio.InvalidStateError) as error:
            # The stream had ended before the write began, or ended just then.
            detail = await self._end_of(stream)
            self._send_on(batch, detail or "the predictor ended the stream")
            if detail:
                raise LinkBroken(detail) from error
            return False
        except asyncio.CancelledError:
            stopping = _is_being_cancelled()
            self._give_back(batch, "the aggregator stops" if stopping else "the predictor hangs")
            if stopping:
                raise
            raise LinkBroken("hangs: it did not answer in time") from None
        finally:
            for timer in timers:
                timer.cancel()
            batch.on_abandoned = lambda: None

    def _settle(self, batch: Batch, number: int, reply: pb.PredictStreamResponse) -> None:
        if reply.request_number != number:
            self._give_back(batch, "the predictor answered another request")
            raise LinkBroken(f"answered request {reply.request_number}, not {number}")
        if reply.WhichOneof("outcome") == "error":
            self._settle_error(batch, code_of(reply.error.code), _short(reply.error.message))
            return
        values = reply.probabilities
        rows = batch.block.row_count
        if len(values) != rows * WIRE_DTYPE.itemsize:
            self._give_back(batch, "the predictor's answer had another length")
            raise LinkBroken(f"answered {len(values)} bytes for {rows} rows")
        if are_probabilities(np.frombuffer(values, WIRE_DTYPE)):
            batch.settle(values)
        elif len(batch.parts) > 1:
            self._each_alone(batch)
        else:
            batch.fail("the model answered values that are no probabilities")

    def _settle_error(self, batch: Batch, code: Code, message: str) -> None:
        """An error of a whole batch may be one request's fault: then each goes by itself."""
        late = code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED)
        if len(batch.parts) == 1 or late or code is Code.RESOURCE_EXHAUSTED:
            batch.fail(message, late=late)
            return
        self._each_alone(batch)

    def _each_alone(self, batch: Batch) -> None:
        for part in batch.parts:
            part.alone = True
        self._lane.put_back(batch.parts)

    def _give_back(self, batch: Batch, note: str) -> None:
        """Queue the parts for another try, each once; predictions may be repeated safely.

        After trouble each travels alone: rows that crash a predictor take nobody with them twice.
        """
        hopeless = {part for part in batch.parts if part.retried}
        for part in batch.parts:
            part.retried = part.alone = True
        self._queue_again(batch, hopeless, note)

    def _send_on(self, batch: Batch, note: str) -> None:
        """Queue the parts for the next predictor: this one has not taken them."""
        for part in batch.parts:
            part.moves += 1
        hopeless = {part for part in batch.parts if part.moves > MOST_MOVES}
        self._queue_again(batch, hopeless, note)

    def _queue_again(self, batch: Batch, hopeless: Set[Part], note: str) -> None:
        for part in batch.parts:
            part.note = note
        for part in hopeless:
            part.holder = None
            part.ticket.fail(part, note)
        self._lane.put_back([part for part in batch.parts if part not in hopeless])

    def _fail_what_has_no_hope(self) -> None:
        label = self._lane.class_label
        if not self._roster.has_hope(label):
            self._lane.fail_all(self._roster.why_not(label), self._roster.addresses(label))

    def _withdraw(self, stream: Any, number: int) -> asyncio.TimerHandle:
        """Tell the predictor that nobody waits; the timer gives up one that hangs."""
        task = asyncio.create_task(self._send_withdrawal(stream, number))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)
        return asyncio.get_running_loop().call_later(OVERDUE_S, stream.cancel)

    async def _send_withdrawal(self, stream: Any, number: int) -> None:
        message = pb.PredictStreamRequest(request_number=number, cancel=pb.Cancel())
        try:
            async with self._writing:
                await stream.write(message.SerializeToString())
        except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError) as error:
            # The stream is gone, and with it what was to be withdrawn.
            log.debug("withdrawal not sent", extra={**self._facts(), "detail": str(error)})

    async def _ended(self, stream: Any) -> None:
        """Raises LinkBroken unless the stream ended in good order."""
        detail = await self._end_of(stream)
        if detail:
            raise LinkBroken(detail)

    @staticmethod
    async def _end_of(stream: Any) -> str:
        """Why the stream ended; empty when it ended in good order, or nobody knows."""
        code, details = await stream.code(), await stream.details()
        if code is grpc.StatusCode.OK or details == _MADE_UP:
            return ""
        return f"{code.name}: {_short(details)}"

    def _facts(self) -> dict[str, str]:
        return {"class_label": self._endpoint.class_label, "address": self._endpoint.address}


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


def _told(error: aio.AioRpcError) -> str:
    """What a person wants to read of a failed call."""
    details = error.details() or ""
    if "Connection refused" in details:
        return "connection refused"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {DESCRIBE_S:g} s"
    return f"{error.code().name}: {_short(details)}"


def _short(text: str) -> str:
    """What fits into the trailers of a call that tells of several predictors."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def _is_being_cancelled() -> bool:
    """Whether this task is to end; grpc.aio raises CancelledError for a cancelled stream, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
