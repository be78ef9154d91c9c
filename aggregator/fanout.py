"""Asks every class at once and waits for what comes of it.

One `Lane` for each class, one `Link` for each predictor; several predictors of a class take batches
from the same lane, so the one that is free first takes the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from grpc import aio

from aggregator.batching import Lane, Outcome, Ticket
from aggregator.link import Link
from aggregator.roster import Roster
from trillium.clock import Clock
from trillium.errors import DeadlineExceeded, Phase
from trillium.rows import Block


class Fanout:
    """The lanes and links of an ensemble."""

    def __init__(
        self,
        roster: Roster,
        *,
        open_channel: Callable[[str], aio.Channel],
        clock: Clock,
        max_queued_rows: int,
        max_batch_rows: int,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._lanes = {
            label: Lane(label, max_queued_rows=max_queued_rows, max_batch_rows=max_batch_rows)
            for label in roster.class_labels
        }
        self._links = [
            Link(
                entry.endpoint,
                self._lanes[entry.endpoint.class_label],
                roster,
                open_channel=open_channel,
                clock=clock,
            )
            for entry in roster.entries
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the links up inside the context."""
        tasks = [asyncio.create_task(link.run()) for link in self._links]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(
        self,
        block: Block,
        class_labels: Sequence[str],
        *,
        deadline: float,
        wants_all: bool,
        trace_id: str = "",
    ) -> list[Outcome | None]:
        """What came of each of `class_labels`, in their order, by `deadline` at the latest.

        With `wants_all` the first failure ends the wait and classes that are still out are None.
        Cancelling it withdraws the request everywhere. Raises Overloaded, DeadlineExceeded; then
        nothing was asked.
        """
        if self._clock.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline had passed before the predictors were asked")
        lanes = [self._lanes[label] for label in class_labels]
        for lane in lanes:
            lane.check_room(block.row_count)
        ticket = Ticket(
            block,
            class_labels,
            deadline=deadline,
            wants_all=wants_all,
            trace_id=trace_id,
            clock=self._clock,
        )
        for slot, lane in enumerate(lanes):
            if self._roster.has_hope(lane.class_label):
                lane.put(ticket.part(slot))
            else:
                addresses, detail = self._roster.why_not(lane.class_label)
                ticket.fail(ticket.part(slot, addresses), detail, phase=Phase.CONNECT)
        await ticket.wait()
        return ticket.outcomes
