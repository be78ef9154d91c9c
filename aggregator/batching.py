"""Requests waiting for one class, and the batches they leave in. Knows no network.

A request is a `Ticket`; it has a `Part` in the lane of each class that it asks. Whoever has a free
predictor takes a batch: everything that waits, up to a size, as soon as those who were answered
together last have come back and a few turns of the event loop bring no more. A caller alone waits
for nobody, so an idle system adds no delay that could be seen and a busy one makes large batches by
itself.

A ticket ends when every class has answered, when one failed and the request wants all of them, when
its time is up, or when its caller goes away. Its other parts are then withdrawn: from the queue, or
from their batch, which tells when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from trillium.clock import Clock
from trillium.errors import ClassFailure, Overloaded, Phase
from trillium.rows import WIRE_DTYPE, Block

QUIET_TURNS = 4
"""Requests that come at once reach the queue over several turns of the event loop: a batch leaves
when this many turns in a row have brought nothing. Measured with 64 callers where gRPC accepted one
call at a time: a batch that left at once had 2.3 requests; with 1, 2 and 4 quiet turns 4, 9 and
about 20, and the CPU for each request fell to 0.35 of what it was."""
MOST_TURNS = 64
"""A batch leaves after so many turns, whatever else is coming."""
PATIENCE_SHARE = 0.5
SHORTEST_PATIENCE_S, LONGEST_PATIENCE_S = 0.001, 0.005
"""Callers who were answered together usually ask again together. A batch that is smaller than the
one before waits for them while they come at intervals of such a share of what that one took, within
these bounds (a millisecond is as fine as uvloop's timers are)."""
MOST_PATIENCE_S = 0.02
"""However they come, no batch waits for its callers longer."""
SHARE_S = 0.01
"""Free predictors share what waits if there is work for so long for each of them, as the last batch
tells. What is done sooner costs less in one batch: messages take more of it than the model does."""

Outcome: TypeAlias = bytes | ClassFailure
"""What came of a class: float32 little-endian probabilities, one for each row, or why not."""


class Holder(Protocol):
    """Where a part is: a lane's queue or a batch."""

    def withdraw(self, part: Part) -> None:
        """Forget the part: its ticket has ended."""
        ...


class Part:
    """One ticket's request to one class."""

    __slots__ = (
        "address", "alone", "holder", "moves", "note", "phase", "retried", "slot", "ticket",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, slot: int, address: str) -> None:
        self.ticket = ticket
        self.slot = slot
        self.address = address
        """The predictor that has it; before that, those that could have it."""
        self.phase = Phase.QUEUE
        self.note = "the deadline passed before its turn came"
        """What to say if time runs out now."""
        self.holder: Holder | None = None
        self.moves = 0
        """How often it was sent to a predictor that then ended the stream in good order."""
        self.retried = False
        """Whether it has been sent a second time after a connection broke."""
        self.alone = False
        """Whether it must travel in a batch of its own, since a batch with it failed."""


class Ticket:
    """One request and what has come of it so far."""

    __slots__ = ("_clock", "_future", "_parts", "_unsettled", "block", "class_labels", "deadline",
                 "on_sent", "outcomes", "started", "trace_id", "wants_all")  # fmt: skip

    def __init__(
        self,
        block: Block,
        class_labels: Sequence[str],
        *,
        deadline: float,
        wants_all: bool,
        trace_id: str,
        clock: Clock,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """`deadline` is on the clock's monotonic time; `trace_id` is empty unless the call is to
        be seen in the predictors' logs; `on_sent` is told of each part that goes to a predictor."""
        self.block = block
        self.class_labels = class_labels
        self.deadline = deadline
        self.wants_all = wants_all
        self.trace_id = trace_id
        self.on_sent = on_sent
        self.started = clock.monotonic()
        self.outcomes: list[Outcome | None] = [None] * len(class_labels)
        self._clock = clock
        self._parts: list[Part] = []
        """Until the ticket ends."""
        self._unsettled = len(class_labels)
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        """Whether nobody waits for further outcomes."""
        return self._future.done()

    def part(self, slot: int, address: str) -> Part:
        """A new part for the class at `slot`; `address` says whom a failure is blamed on until
        the part is sent."""
        part = Part(self, slot, address)
        self._parts.append(part)
        return part

    def settle(self, part: Part, outcome: Outcome) -> None:
        """Say what came of a part; the first word counts.

        What else fails before the caller has been woken is told to it, too.
        """
        if self.outcomes[part.slot] is not None:
            return
        self.outcomes[part.slot] = outcome
        self._unsettled -= 1
        if self._future.done():
            return
        if not self._unsettled or (self.wants_all and isinstance(outcome, ClassFailure)):
            self._future.set_result(None)

    def fail(
        self, part: Part, message: str, *, phase: Phase | None = None, late: bool = False
    ) -> None:
        """Settle a part with a failure."""
        failure = ClassFailure(
            class_label=self.class_labels[part.slot],
            address=part.address,
            phase=phase or part.phase,
            message=message,
            elapsed_s=self._clock.monotonic() - self.started,
            timed_out=late,
        )
        self.settle(part, failure)

    async def wait(self) -> None:
        """Until the ticket ends; at its deadline, what is unsettled fails."""
        left_s = self.deadline - self._clock.monotonic()
        timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._expire)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future.cancel()
            for part in self._parts:
                if part.holder is not None:
                    part.holder.withdraw(part)
                    part.holder = None
            # Each has its ticket: together they would stay until a garbage collection.
            self._parts.clear()

    def _expire(self) -> None:
        for part in self._parts:
            self.fail(part, part.note, late=True)
        if not self._future.done():
            self._future.set_result(None)


class Batch:
    """Parts that travel together, their rows in one block."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        blocks = [part.ticket.block for part in parts]
        self.block = blocks[0] if len(blocks) == 1 else _joined(blocks)
        self.deadline = max(part.ticket.deadline for part in parts)
        self.on_abandoned: Callable[[], None] = lambda: None
        """Called when nobody waits for the batch any more."""
        self._waiting = len(parts)

    @property
    def trace_ids(self) -> list[str]:
        """Ids of the requests that are to be seen in the predictor's log."""
        return [part.ticket.trace_id for part in self.parts if part.ticket.trace_id]

    def sent_to(self, address: str) -> None:
        """Say which predictor has it now."""
        for part in self.parts:
            part.holder = self
            part.address = address
            part.phase = Phase.RUN
            part.note = "the deadline passed before the predictor answered"
            part.ticket.on_sent()

    def withdraw(self, part: Part) -> None:
        """One of its callers waits no more."""
        self._waiting -= 1
        if not self._waiting:
            self.on_abandoned()

    def settle(self, probabilities: bytes) -> None:
        """Give each part its rows of the answer: float32, one for each row of the block."""
        start = 0
        for part in self.parts:
            end = start + part.ticket.block.row_count * WIRE_DTYPE.itemsize
            part.holder = None
            part.ticket.settle(part, probabilities[start:end])
            start = end

    def fail(self, message: str, *, late: bool = False) -> None:
        """Settle every part with a failure."""
        for part in self.parts:
            part.holder = None
            part.ticket.fail(part, message, late=late)


def _joined(blocks: Sequence[Block]) -> Block:
    rows = sum(block.row_count for block in blocks)
    return Block(rows, blocks[0].column_count, b"".join([block.data for block in blocks]))


@dataclass(frozen=True, slots=True)
class Pace:
    """The batch that a predictor has answered last."""

    parts: int = 0
    took_s: float = 0.0
    """From leaving the queue to the answer."""


class Lane:
    """The queue of one class, and the predictors that are free for it."""

    def __init__(
        self,
        class_label: str,
        *,
        max_queued_rows: int,
        max_batch_rows: int,
        max_batch_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """A single request may be larger than `max_batch_*`; it then travels alone."""
        self.class_label = class_label
        self._max_queued_rows = max_queued_rows
        self._max_batch_rows = max_batch_rows
        self._max_batch_bytes = max_batch_bytes
        self._queue: OrderedDict[Part, None] = OrderedDict()
        self._queued_rows = 0
        self._free: deque[asyncio.Future[None]] = deque()
        self._gathering = 0
        self._expected = 0
        """How many parts those had before who gather now."""
        self._complete: asyncio.Future[None] | None = None
        """Done when so many wait; there is one while somebody gathers."""
        self._arrivals = 0
        self._part_s = 0.0
        """What a part of the last batch took."""

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    def check_room(self, row_count: int) -> None:
        """Raises Overloaded if so many more rows may not wait. An empty queue takes any request."""
        if self._queued_rows and self._queued_rows + row_count > self._max_queued_rows:
            text = f"{self._queued_rows} rows wait for class {self.class_label} already"
            raise Overloaded(f"{text}; at most {self._max_queued_rows} may", retry_after_s=0.1)

    def put(self, part: Part) -> None:
        """Queue a part and wake the predictor that has been free for longest."""
        part.holder = self
        self._queue[part] = None
        self._queued_rows += part.ticket.block.row_count
        self._arrivals += 1
        complete = self._complete
        if complete is not None and not complete.done() and self._is_complete():
            complete.set_result(None)
        self.wake()

    def put_back(self, parts: Sequence[Part]) -> None:
        """Queue parts again, before all others, in their order; ended ones are left out."""
        for part in reversed(parts):
            part.holder = None
            if not part.ticket.ended:
                self.put(part)
                self._queue.move_to_end(part, last=False)

    async def gather(self, before: Pace = Pace()) -> Batch | None:
        """What `take` takes, once what is arriving has arrived; None if nothing waits any more, or
        if it is left to those who gather already.

        `before` is the last batch of who asks: its callers are likely to come back. Predictors that
        gather at the same time share what waits. A request that comes alone after one that left
        alone does not wait: callers who take turns have nothing to gather.
        """
        if before.parts:
            self._part_s = before.took_s / before.parts
        if not self._wants_another():
            return None
        if before.parts == 1 and len(self._queue) == 1:
            return self.take()
        self._gathering += 1
        self._expected += before.parts
        try:
            await self._completed(before)
            await self._quiet()
            return self.take(math.ceil(len(self._queue) / self._gathering))
        finally:
            self._gathering -= 1
            self._expected -= before.parts
            self.wake()

    def _wants_another(self) -> bool:
        """Whether what waits is worth a batch beside those that are being gathered."""
        worth_s = len(self._queue) * self._part_s
        return bool(self._queue) and self._gathering <= max(0, worth_s // SHARE_S - 1)

    def _is_complete(self) -> bool:
        """Whether as many wait as were answered last, or as many as may travel together."""
        return len(self._queue) >= self._expected or self._queued_rows >= self._max_batch_rows

    async def _completed(self, before: Pace) -> None:
        """Wait for the callers of the last batch, as long as they keep coming."""
        if not self._queue or self._is_complete():
            return
        loop = asyncio.get_running_loop()
        if self._complete is None or self._complete.done():
            self._complete = loop.create_future()
        complete = self._complete
        patience_s = min(
            LONGEST_PATIENCE_S, max(SHORTEST_PATIENCE_S, before.took_s * PATIENCE_SHARE)
        )
        latest = loop.time() + MOST_PATIENCE_S
        timer: asyncio.TimerHandle

        def look(seen: int) -> None:
            nonlocal timer
            if complete.done():
                return
            if seen == self._arrivals or loop.time() >= latest or not self._queue:
                complete.set_result(None)
            else:
                timer = loop.call_later(patience_s, look, self._arrivals)

        timer = loop.call_later(patience_s, look, self._arrivals)
        try:
            await asyncio.shield(complete)
        finally:
            timer.cancel()

    async def _quiet(self) -> None:
        """Wait until a few turns of the event loop have brought nothing."""
        rows = quiet = 0
        for _ in range(MOST_TURNS):
            full = self._queued_rows >= self._max_batch_rows
            if full or not self._queue or quiet == QUIET_TURNS:
                return
            quiet = quiet + 1 if self._queued_rows == rows else 0
            rows = self._queued_rows
            await asyncio.sleep(0)

    def take(self, most: int = sys.maxsize) -> Batch | None:
        """The next batch: what waits, in order, up to the limits; None if nothing waits.

        It has at most `most` parts. Rows of another width than the first's wait for the next one.
        """
        taken: list[Part] = []
        rows = size = 0
        for part in self._queue:
            block = part.ticket.block
            fits = not taken or (
                len(taken) < most
                and rows + block.row_count <= self._max_batch_rows
                and size + len(block.data) <= self._max_batch_bytes
                and block.column_count == taken[0].ticket.block.column_count
                and not (part.alone or taken[0].alone)
            )
            if not fits:
                break
            taken.append(part)
            rows += block.row_count
            size += len(block.data)
        for part in taken:
            self.withdraw(part)
        return Batch(taken) if taken else None

    def withdraw(self, part: Part) -> None:
        """Take a part out of the queue."""
        del self._queue[part]
        self._queued_rows -= part.ticket.block.row_count

    def work(self) -> asyncio.Future[None]:
        """A future that is done when there may be something to gather; done already if there is.

        A predictor that stops waiting gives it to `leave`, or sets its result.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._wants_another():
            future.set_result(None)
        else:
            self._free.append(future)
        return future

    def leave(self, work: asyncio.Future[None]) -> None:
        """Forget that somebody waits for `work`, the answer of an earlier call."""
        work.cancel()
        if work in self._free:
            self._free.remove(work)

    def fail_all(self, message: str, addresses: str) -> None:
        """Fail everything that waits: there is no predictor to wait for."""
        for part in list(self._queue):
            self.withdraw(part)
            part.holder = None
            if part.phase is not Phase.RUN:
                part.address, part.phase = addresses, Phase.CONNECT
                part.note = message
            part.ticket.fail(part, part.note)

    def wake(self) -> None:
        """Wake the predictor that has been free for longest, if there is work for it."""
        while self._free and self._wants_another():
            future = self._free.popleft()
            if not future.done():
                future.set_result(None)
                return
