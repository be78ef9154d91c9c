"""A request and its parts, one for each class that it asks. Knows no network.

A ticket ends when every class has answered, when one failed and the request wants all of them, at
its deadline, or when its caller goes away. Its other parts are then withdrawn: from the queue, or
from their batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from trillium.clock import Clock
from trillium.errors import ClassFailure, Phase
from trillium.rows import Block

Outcome: TypeAlias = bytes | ClassFailure
"""The answer of a class: float32 little-endian probabilities, one for each row; or its failure."""

MOST_MOVES = 8
"""A predictor that ends its stream in good order did not take what it has not answered. A request
that this many predictors have passed on meets a fault, not a rollout."""


class Holder(Protocol):
    """What a part is in: a lane's queue or a batch."""

    def withdraw(self, part: Part) -> None:
        """Remove the part: its ticket has ended."""
        ...


class Part:
    """One ticket's request to one class."""

    __slots__ = (
        "address", "alone", "holder", "index", "is_over", "moves", "note", "phase", "retried",
        "ticket",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, index: int, address: str) -> None:
        self.ticket = ticket
        self.index = index
        """Of its class, among those that the ticket asks."""
        self.address = address
        """The predictor that has it; before that, those that could have it."""
        self.phase = Phase.QUEUE
        self.note = "the deadline passed before its turn came"
        """The message of its failure if time runs out now."""
        self.holder: Holder | None = None
        self.moves = 0
        """How often it was sent to a predictor that then ended its stream in good order."""
        self.retried = False
        """Whether it has been sent a second time after a connection broke."""
        self.alone = False
        """Whether it must travel in a batch of its own, since a batch with it failed."""
        self.is_over = False
        """Whether nothing more comes of it."""

    @property
    def is_wanted(self) -> bool:
        """Whether an outcome of it would still count."""
        return not (self.is_over or self.ticket.ended or self.ticket.has_outcome(self.index))

    def twin(self) -> Part:
        """A second part for the same class, for another predictor. The first answer counts, and a
        failure only if the other part fails, too; it is never sent again."""
        twin = self.ticket.second_part(self)
        twin.alone, twin.retried, twin.moves = self.alone, True, MOST_MOVES
        return twin

    @property
    def class_label(self) -> str:
        """The class that it asks."""
        return self.ticket.class_labels[self.index]

    def sent(self, holder: Holder, address: str) -> None:
        """It is in a batch that goes to the predictor at `address`."""
        self.holder = holder
        self.address = address
        self.phase = Phase.RUN
        self.note = "the deadline passed before the predictor answered"
        self.ticket.on_sent()

    def may_be_repeated(self, note: str) -> bool:
        """Whether it may be sent once more after trouble, whose description `note` is.

        It then travels alone: rows that crash a predictor take no other request down twice.
        """
        was_retried, self.retried = self.retried, True
        self.alone, self.note = True, note
        return not was_retried

    def may_move(self, note: str) -> bool:
        """Whether it may be sent to another predictor, as this one has not taken it."""
        self.moves += 1
        self.note = note
        return self.moves <= MOST_MOVES

    def fail(self, message: str, *, late: bool = False, rejected: bool = False) -> None:
        """Settle it with a failure; it is in no queue and no batch any more."""
        self.holder = None
        self.ticket.fail(self, message, late=late, rejected=rejected)

    def fail_unsent(self, message: str, addresses: str) -> None:
        """Settle it with a failure of the predictors at `addresses`: none of them can be asked."""
        if self.phase is not Phase.RUN:
            self.address, self.phase, self.note = addresses, Phase.CONNECT, message
        self.fail(self.note)


class Ticket:
    """One request and its outcomes so far."""

    __slots__ = ("_clock", "_future", "_hedged", "_parts", "_unsettled", "block", "class_labels",
                 "deadline", "on_sent", "outcomes", "started", "trace_id", "wants_all")  # fmt: skip

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
        """`deadline` is on the clock's monotonic time; `trace_id` is empty unless the
        predictors should log the request; `on_sent` is called for each part that is sent."""
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
        self._hedged: list[Part] = []
        """Those of classes that have two."""
        self._unsettled = len(class_labels)
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        """Whether no more outcomes are awaited."""
        return self._future.done()

    def part(self, index: int, address: str) -> Part:
        """A new part for the class at `index`; until it is sent, a failure names `address`."""
        part = Part(self, index, address)
        self._parts.append(part)
        return part

    def second_part(self, part: Part) -> Part:
        """A second part for the class of `part`."""
        second = self.part(part.index, part.address)
        self._hedged.extend((part, second))
        return second

    def has_outcome(self, index: int) -> bool:
        """Whether the class at `index` has answered or failed."""
        return self.outcomes[index] is not None

    def settle(self, part: Part, outcome: Outcome) -> None:
        """Set the outcome of a part; the first one counts.

        Failures that follow before the caller wakes up are reported to it, too.
        """
        part.is_over = True
        if self.outcomes[part.index] is not None:
            return
        twins = [each for each in self._hedged if each.index == part.index and not each.is_over]
        if twins and isinstance(outcome, ClassFailure):
            return
        self.outcomes[part.index] = outcome
        for each in twins:
            each.is_over = True
            if each.holder is not None:
                each.holder.withdraw(each)
                each.holder = None
        self._unsettled -= 1
        if self._future.done():
            return
        if not self._unsettled or (self.wants_all and isinstance(outcome, ClassFailure)):
            self._future.set_result(None)

    def fail(
        self,
        part: Part,
        message: str,
        *,
        phase: Phase | None = None,
        late: bool = False,
        rejected: bool = False,
    ) -> None:
        """Settle a part with a failure; see ClassFailure for what the parameters mean."""
        failure = ClassFailure(
            class_label=self.class_labels[part.index],
            address=part.address,
            phase=phase or part.phase,
            message=message,
            elapsed_s=self._clock.monotonic() - self.started,
            timed_out=late,
            rejected=rejected,
        )
        self.settle(part, failure)

    async def wait(self) -> None:
        """Wait until the ticket ends; at its deadline, what is unsettled fails."""
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
            # Parts refer to their ticket: the cycle would live until a garbage collection.
            self._parts.clear()
            self._hedged.clear()

    def _expire(self) -> None:
        for part in self._parts:
            self.fail(part, part.note, late=True)
        if not self._future.done():
            self._future.set_result(None)
