"""Asks every class at once and waits for the outcomes.

There is a `Lane` for each class and a `Link` for each predictor; several predictors of a class take
batches from the same lane, so the one that is free first takes the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from grpc import aio

from trillium.clock import Clock
from trillium.errors import DeadlineExceeded, InvalidRequest, Overloaded, Phase
from trillium.rows import Block
from trillium.server.tasks import Supervisor, end

from ..plans.roster import Endpoint, Roster
from .lane import Lane
from .link import Link
from .suspects import Suspects
from .ticket import Outcome, Ticket

FAREWELL_S = 10.0
"""Maximum time for a link that is removed to finish its batch in flight."""


class Fanout:
    """The lanes and links of an ensemble."""

    def __init__(
        self,
        roster: Roster,
        *,
        open_channel: Callable[[str], aio.Channel],
        clock: Clock,
        max_queued_rows: int,
        hedge_share: float = 0.0,
        max_batch_rows: int,
        max_batch_bytes: int,
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._open_channel = open_channel
        self._make_lane = partial(
            Lane,
            max_queued_rows=max_queued_rows,
            hedge_share=hedge_share,
            max_batch_rows=max_batch_rows,
            max_batch_bytes=max_batch_bytes,
        )
        self._lanes: dict[str, Lane] = {}
        self._suspects = Suspects(clock)
        self._links: dict[Endpoint, tuple[Link, asyncio.Task[None]]] = {}
        self._tasks = Supervisor()

    @property
    def queued_rows(self) -> dict[str, int]:
        """Rows that wait, by class."""
        return {label: lane.queued_rows for label, lane in self._lanes.items()}

    @property
    def lanes(self) -> Sequence[Lane]:
        """Of all classes that were asked."""
        return tuple(self._lanes.values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the links up inside the context."""
        await self.follow_roster()
        try:
            yield
        finally:
            await self._tasks.close()

    async def follow_roster(self) -> None:
        """Have a link for each predictor of the roster, and for no other.

        Returns when the links of removed predictors have finished their batches in flight, or have
        been given up.
        """
        known = self._roster.linked
        for endpoint in known - self._links.keys():
            lane = self._lane(endpoint.class_label)
            link = Link(
                endpoint,
                lane,
                self._roster,
                open_channel=self._open_channel,
                clock=self._clock,
                tasks=self._tasks,
                suspects=self._suspects,
            )
            name = f"link to {endpoint.address} for {endpoint.class_label}"
            self._links[endpoint] = link, self._tasks.start(name, link.run())
        removed = [self._links.pop(endpoint) for endpoint in self._links.keys() - known]
        for link, _ in removed:
            link.wake()
        if removed:
            tasks = [task for _, task in removed]
            await asyncio.wait(tasks, timeout=FAREWELL_S)
            await end(*tasks)

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
        """The outcome of each of `class_labels`, in their order, by `deadline` at the latest.

        With `wants_all` the first failure ends the wait, and classes without an outcome are None.
        Without it, a class whose queue is full fails like any other. `on_sent` is called whenever
        a predictor gets the request. Cancelling withdraws the request everywhere. Raises
        Overloaded, DeadlineExceeded, and InvalidRequest for rows that took predictors down; then no
        predictor was asked.
        """
        if self._clock.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline had passed before the predictors were asked")
        lanes = [self._lane(label) for label in class_labels]
        if wants_all:
            for lane in lanes:
                lane.check_room(block.row_count)
                if refusal := self._refusal(lane.class_label, block):
                    raise InvalidRequest.of("rows", refusal)
        ticket = Ticket(
            block,
            class_labels,
            deadline=deadline,
            wants_all=wants_all,
            trace_id=trace_id,
            clock=self._clock,
            on_sent=on_sent,
        )
        for index, lane in enumerate(lanes):
            part = ticket.part(index, self._roster.addresses(lane.class_label))
            if not self._roster.has_hope(lane.class_label):
                ticket.fail(part, self._roster.why_not(lane.class_label), phase=Phase.CONNECT)
                continue
            if refusal := self._refusal(lane.class_label, block):
                ticket.fail(part, refusal, rejected=True)
                continue
            part.alone = self._suspects.find(lane.class_label, block) is not None
            try:
                lane.check_room(block.row_count)
            except Overloaded as error:
                ticket.fail(part, error.message)
            else:
                lane.put(part)
        await ticket.wait()
        return ticket.outcomes

    def _refusal(self, class_label: str, block: Block) -> str:
        """Why these rows are not sent to a predictor of that class now; empty if they are."""
        found = self._suspects.find(class_label, block)
        if found is None or found.refused_s <= 0:
            return ""
        text = f"took down {found.deaths} predictors of class {class_label!r} in a row"
        return f"with the SHA-256 {found.digest[:16]} {text}; refused for {found.refused_s:.1f} s"
