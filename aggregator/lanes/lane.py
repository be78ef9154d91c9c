"""Requests waiting for one class, and the batches they leave in. Knows no network.

A predictor that is free takes a batch: everything that waits, up to a size, as soon as the callers
who were answered together last have come back and a few turns of the event loop bring no more. A
lone caller waits for nobody, so an idle system adds no measurable delay, and a busy one makes large
batches by itself.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Sequence

from trillium.errors import Overloaded

from .batch import NO_BATCH, Batch, LastBatch
from .figures import LaneFigures
from .hedging import Hedging
from .ticket import Part

QUIET_TURNS = 4
"""Requests that come at once reach the queue over several turns of the event loop: a batch leaves
when this many turns in a row have brought nothing. Measured with 64 callers where gRPC accepted one
call at a time: a batch that left at once had 2.3 requests; with 1, 2 and 4 quiet turns 4, 9 and
about 20, and the CPU for each request fell to 0.35 of what it was."""
MOST_TURNS = 64
"""A batch leaves after this many turns, whatever else is coming."""
PATIENCE_SHARE = 0.5
SHORTEST_PATIENCE_S, LONGEST_PATIENCE_S = 0.001, 0.005
"""Callers who were answered together usually ask again together. A batch that is smaller than the
one before waits for them while they come at intervals of this share of the time that one took,
within these bounds (uvloop's timers are no finer than a millisecond)."""
MOST_PATIENCE_S = 0.02
"""No batch waits for its callers longer than this, however they come."""
SHARE_S = 0.01
"""Free predictors share what waits if each gets work for this time, judged by the last batch. Less
work costs less in one batch: messages take more of its time than the model does."""


class Lane:
    """The queue of one class, and the predictors that are free for it."""

    def __init__(
        self,
        class_label: str,
        *,
        max_queued_rows: int,
        max_batch_rows: int,
        max_batch_bytes: int = 16 * 1024 * 1024,
        hedge_share: float = 0.0,
    ) -> None:
        """A single request may be larger than `max_batch_*`; it then travels alone. At most
        `hedge_share` of the requests are sent to a second predictor."""
        self.class_label = class_label
        self._max_queued_rows = max_queued_rows
        self._max_batch_rows = max_batch_rows
        self._max_batch_bytes = max_batch_bytes
        self.hedging = Hedging(hedge_share)
        self.figures = LaneFigures()
        self._queue: OrderedDict[Part, None] = OrderedDict()
        self._queued_rows = 0
        self._free: deque[asyncio.Future[None]] = deque()
        self._gathering = 0
        self._expected = 0
        """Parts in the last batches of those who gather now."""
        self._complete: asyncio.Future[None] | None = None
        """Done when that many wait; there is one while somebody gathers."""
        self._arrivals = 0
        self._part_s = 0.0
        """Time that a part of the last batch took."""

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    def check_room(self, row_count: int) -> None:
        """Raises Overloaded if there is no room for more rows. An empty queue takes any request."""
        if self._queued_rows and self._queued_rows + row_count > self._max_queued_rows:
            text = f"{self._queued_rows} rows wait for class {self.class_label} already"
            raise Overloaded(f"{text}; at most {self._max_queued_rows} may wait", retry_after_s=0.1)

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

    def hedge(self, batch: Batch) -> None:
        """Have another predictor work on a batch, too, if one is free and has nothing else to do,
        and the class may still send that number of requests twice."""
        parts = [part for part in batch.parts if part.is_wanted and not part.retried]
        if parts and self._free and not self._queue and self.hedging.allows(len(parts)):
            for part in parts:
                self.put(part.twin())

    def put_back(self, parts: Sequence[Part]) -> None:
        """Queue parts again, before all others, in their order; ended ones are left out."""
        for part in reversed(parts):
            part.holder = None
            if part.is_wanted:
                self.put(part)
                self._queue.move_to_end(part, last=False)

    async def gather(self, before: LastBatch = NO_BATCH) -> Batch | None:
        """The next batch, as `take` returns it, once what is arriving has arrived; None if nothing
        waits any more, or if others gather it already.

        `before` is the caller's last batch: those it answered are likely to ask again. Predictors
        that gather at the same time share what waits. A request that comes alone after one that
        left alone does not wait: callers who take turns have nothing to gather.
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
        """Whether what waits is worth a batch more than those that are being gathered."""
        worth_s = len(self._queue) * self._part_s
        return bool(self._queue) and self._gathering <= max(0, worth_s // SHARE_S - 1)

    def _is_complete(self) -> bool:
        """Whether as many wait as were answered last, or as many as may travel together."""
        return len(self._queue) >= self._expected or self._queued_rows >= self._max_batch_rows

    async def _completed(self, before: LastBatch) -> None:
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
            part.fail_unsent(message, addresses)

    def wake(self) -> None:
        """Wake the predictor that has been free for longest, if there is work for it."""
        while self._free and self._wants_another():
            future = self._free.popleft()
            if not future.done():
                future.set_result(None)
                return
