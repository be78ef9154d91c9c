"""The way to one predictor: one channel, one open stream, one batch in flight.

A link reaches its predictor, asks for its model, opens a stream, and then takes batches from its
class's lane for as long as the stream lasts. When the connection breaks, the link reports it to the
roster, queues the batch in flight again, and reconnects with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from grpc import StatusCode, aio

from trillium.clock import Clock
from trillium.errors import Code
from trillium.model.description import ModelDescription
from trillium.model.messages import description_of
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.rows import WIRE_DTYPE, are_probabilities
from trillium.rpc.status import code_of
from trillium.server.tasks import Supervisor, is_asked_to_end

from ..plans.roster import Endpoint, Roster
from .batch import NO_BATCH, Batch, LastBatch
from .lane import Lane
from .predictor_stream import LinkBroken, PredictorStream, StreamEnded, described, shortened
from .suspects import Suspects

log = logging.getLogger(__name__)

DESCRIBE_S = 2.0
"""Maximum time that a predictor takes to describe its model."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
RECHECK_S = 1.0
"""Pause before a predictor whose model does not fit is asked again."""
_DEFECT = "internal error of the aggregator; see its log"


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
        tasks: Supervisor,
        suspects: Suspects,
    ) -> None:
        self._endpoint = endpoint
        self._lane = lane
        self._roster = roster
        self._open_channel = open_channel
        self._clock = clock
        self._tasks = tasks
        self._suspects = suspects
        self._free: asyncio.Future[None] | None = None
        """What an idle link waits for."""

    def wake(self) -> None:
        """Have an idle link check again whether its predictor may still be asked."""
        if self._free is not None and not self._free.done():
            self._free.set_result(None)

    async def run(self) -> None:
        """Keep the link up until cancelled, or until the roster no longer has its predictor.

        Then the batch in flight is finished first, and what waits is left to other links.
        """
        pause_s = FIRST_PAUSE_S
        while self._roster.knows(self._endpoint):
            began = self._clock.monotonic()
            try:
                await self._session()
            except LinkBroken as broken:
                if self._roster.lost(self._endpoint, str(broken)):
                    log.info("predictor lost", extra={**self._facts(), "detail": str(broken)})
            except (Exception, asyncio.CancelledError):
                if is_asked_to_end():
                    raise
                self._roster.lost(self._endpoint, _DEFECT)
                log.exception("link failed", extra=self._facts())
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
            stream = PredictorStream(channel, self._endpoint.address, self._tasks)
            try:
                await self._carry(stream)
            finally:
                stream.close()
        self._roster.connecting(self._endpoint, "its model was unloaded or replaced")

    async def _describe(self, channel: aio.Channel) -> ModelDescription:
        try:
            stub = ModelServiceStub(channel)
            answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=DESCRIBE_S)
        except aio.AioRpcError as error:
            late = error.code() is StatusCode.DEADLINE_EXCEEDED
            reason = f"no answer within {DESCRIBE_S:g} s" if late else described(error)
            raise LinkBroken(reason) from error
        if answer.state != model_pb.MODEL_STATE_READY:
            name = model_pb.ModelState.Name(answer.state).removeprefix("MODEL_STATE_").lower()
            raise LinkBroken(f"has no model ready: it is {name}")
        return description_of(answer.model)

    async def _carry(self, stream: PredictorStream) -> None:
        """Carry batches until the predictor ends the stream in good order; raises LinkBroken."""
        last = NO_BATCH
        stream.on_end(self.wake)
        try:
            while self._roster.is_ready(self._endpoint):
                if stream.is_done:
                    await stream.ended()
                    return
                batch = await self._lane.gather(last)
                if batch is None:
                    # What happened while it gathered has woken nobody. Missed, a predictor that
                    # died counts as ready for as long as another one takes all that comes.
                    if self._is_up(stream):
                        self._free = self._lane.work()
                        await self._free
                    continue
                began = self._clock.monotonic()
                if not await self._exchange(stream, batch):
                    return
                last = LastBatch(len(batch.parts), self._clock.monotonic() - began)
                if not batch.was_abandoned:
                    self._lane.hedging.answered(last.took_s, last.parts)
                # Not to be kept for as long as nothing else comes.
                del batch
        finally:
            if self._free is not None:
                self._lane.leave(self._free)
            # This link may have been woken for work that it now leaves to another one.
            self._lane.wake()

    def _is_up(self, stream: PredictorStream) -> bool:
        return self._roster.is_ready(self._endpoint) and not stream.is_done

    async def _exchange(self, stream: PredictorStream, batch: Batch) -> bool:
        """Send a batch and settle it with the answer; False when the stream ended in good order.

        Whatever else happens, the batch is settled or queued again. Raises LinkBroken.
        """
        began, figures = self._clock.monotonic(), self._lane.figures
        left_s = max(0.0, batch.deadline - began)
        figures.left(batch, began)
        try:
            with self._hedged(batch):
                answer = await stream.exchange(batch, left_s)
            figures.answered(batch, self._clock.monotonic() - began, answer.run_us / 1e6)
            self._settle(batch, answer)
        except StreamEnded as ended:
            self._lane.put_back(batch.parts_to_move(str(ended)))
            return False
        except LinkBroken as broken:
            if broken.took and len(batch.parts) == 1:
                self._suspects.blame(batch.parts[0])
            queue_again = batch.parts_to_repeat if broken.took else batch.parts_to_move
            self._lane.put_back(queue_again(broken.note))
            raise
        except asyncio.CancelledError:
            self._lane.put_back(batch.parts_to_repeat("the aggregator stops"))
            raise
        except Exception:
            batch.fail(_DEFECT)
            raise
        finally:
            figures.came_back(batch)
        return True

    @contextmanager
    def _hedged(self, batch: Batch) -> Iterator[None]:
        """Have another predictor work on the batch, too, if it takes unusually long."""
        hedging = self._lane.hedging
        timer = None
        if hedging.after_s < math.inf:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(hedging.after_s, self._lane.hedge, batch)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _settle(self, batch: Batch, answer: pb.PredictStreamResponse) -> None:
        if answer.WhichOneof("outcome") == "error":
            self._settle_error(batch, code_of(answer.error.code), shortened(answer.error.message))
            return
        values = answer.probabilities
        rows = batch.block.row_count
        if len(values) != rows * WIRE_DTYPE.itemsize:
            reason = f"answered {len(values)} bytes for {rows} rows"
            raise LinkBroken(reason, "the predictor's answer had another length")
        if are_probabilities(np.frombuffer(values, WIRE_DTYPE)):
            if len(batch.parts) == 1:
                self._suspects.acquit(batch.parts[0])
            batch.settle(values)
        elif len(batch.parts) > 1:
            self._lane.put_back(batch.parts_alone())
        else:
            batch.fail("the model returned values that are no probabilities", rejected=True)

    def _settle_error(self, batch: Batch, code: Code, message: str) -> None:
        """An error of a whole batch may be one request's fault: then each goes by itself."""
        late = code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED)
        if len(batch.parts) == 1 or late or code is Code.RESOURCE_EXHAUSTED:
            batch.fail(message, late=late, rejected=code is Code.INVALID_ARGUMENT)
            return
        self._lane.put_back(batch.parts_alone())

    def _fail_what_has_no_hope(self) -> None:
        label = self._lane.class_label
        if not self._roster.has_hope(label):
            self._lane.fail_all(self._roster.why_not(label), self._roster.addresses(label))

    def _facts(self) -> dict[str, str]:
        return {"class_label": self._endpoint.class_label, "address": self._endpoint.address}
