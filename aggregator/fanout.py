"""Asks every class at once and waits for what comes of it.

One `Lane` for each class, one `Link` for each predictor; several predictors of a class take batches
from the same lane, so the one that is free first takes the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from grpc import aio

from aggregator.batching import Lane, Outcome, Ticket
from aggregator.link import Link
from aggregator.roster import Endpoint, Roster
from trillium.clock import Clock
from trillium.errors import DeadlineExceeded, Overloaded, Phase
from trillium.rows import Block

FAREWELL_S = 10.0
"""How long a link that is not wanted any more may go on with its batch in flight."""


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
        max_batch_bytes: int,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._open_channel = open_channel
        self._make_lane = partial(
            Lane,
            max_queued_rows=max_queued_rows,
            max_batch_rows=max_batch_rows,
            max_batch_bytes=max_batch_bytes,
        )
        self._lanes: dict[str, Lane] = {}
        self._links: dict[Endpoint, tuple[Link, asyncio.Task[None]]] = {}
        self._going: set[asyncio.Task[None]] = set()

    @property
    def queued_rows(self) -> dict[str, int]:
        """Rows that wait, by class."""
        return {label: lane.queued_rows for label, lane in self._lanes.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the links up inside the context."""
        await self.follow_roster()
        try:
            yield
        finally:
            tasks = [*self._going, *(task for _, task in self._links.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def follow_roster(self) -> None:
        """Have a link for each predictor of the roster, and for no other.

        Returns when those that went have finished what they had in flight, or have been given up.
        """
        known = self._roster.linked
        for endpoint in known - self._links.keys():
            lane = self._lane(endpoint.class_label)
            link = Link(
                endpoint, lane, self._roster, open_channel=self._open_channel, clock=self._clock
            )
            self._links[endpoint] = link, asyncio.create_task(link.run())
        going = [self._links.pop(endpoint) for endpoint in self._links.keys() - known]
        for link, task in going:
            # Who waits here may be cancelled; then the task is still ours to end.
            self._going.add(task)
            task.add_done_callback(self._going.discard)
            link.wake()
        await _ended([task for _, task in going])

    def fail_what_has_no_hope(self) -> None:
        """Fail what waits for classes that have no predictor to wait for."""
        for label, lane in self._lanes.items():
            if not self._roster.has_hope(label):
                lane.fail_all(self._roster.why_not(label), self._roster.addresses(label))

    def _lane(self, class_label: str) -> Lane:
        if class_label not in self._lanes:
            self._lanes[class_label] = self._make_lane(class_label)
        return self._lanes[class_label]

    async def ask(
        self,
        block: Block,
        class_labels: Sequence[str],
        *,
        deadline: float,
        wants_all: bool,
        trace_id: str = "",
        on_sent: Callable[[], None] = lambda: None,
    ) -> list[Outcome | None]:
        """What came of each of `class_labels`, in their order, by `deadline` at the latest.

        With `wants_all` the first failure ends the wait and classes that are still out are None.
        Without it, a class whose queue is full fails like any other. `on_sent` is told whenever a
        predictor gets the request. Cancelling it withdraws the request everywhere. Raises
        Overloaded, DeadlineExceeded; then nothing was asked.
        """
        if self._clock.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline had passed before the predictors were asked")
        lanes = [self._lane(label) for label in class_labels]
        if wants_all:
            for lane in lanes:
                lane.check_room(block.row_count)
        ticket = Ticket(
            block,
            class_labels,
            deadline=deadline,
            wants_all=wants_all,
            trace_id=trace_id,
            clock=self._clock,
            on_sent=on_sent,
        )
        for slot, lane in enumerate(lanes):
            part = ticket.part(slot, self._roster.addresses(lane.class_label))
            if not self._roster.has_hope(lane.class_label):
                ticket.fail(part, self._roster.why_not(lane.class_label), phase=Phase.CONNECT)
                continue
            try:
                lane.check_room(block.row_count)
            except Overloaded as error:
                ticket.fail(part, error.message)
            else:
                lane.put(part)
        await ticket.wait()
        return ticket.outcomes


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for links that were told to end, and end those that do not."""
    if not tasks:
        return
    await asyncio.wait(tasks, timeout=FAREWELL_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
