"""Parts that travel to a predictor together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trillium.rows import WIRE_DTYPE, Block

from .ticket import Part


@dataclass(frozen=True, slots=True)
class LastBatch:
    """The batch that a predictor has answered last."""

    parts: int = 0
    took_s: float = 0.0
    """From leaving the queue to the answer."""


NO_BATCH = LastBatch()
"""Before the first one."""


class Batch:
    """Parts with their rows joined in one block."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        blocks = [part.ticket.block for part in parts]
        self.block = blocks[0] if len(blocks) == 1 else _joined(blocks)
        self.deadline = max(part.ticket.deadline for part in parts)
        self._on_abandoned: Callable[[], None] | None = None
        self._waiting = len(parts)

    @property
    def trace_ids(self) -> list[str]:
        """Ids of the requests that the predictor should log."""
        return [part.ticket.trace_id for part in self.parts if part.ticket.trace_id]

    @property
    def was_abandoned(self) -> bool:
        """Whether its last caller has stopped waiting before the answer."""
        return not self._waiting

    def sent_to(self, address: str, on_abandoned: Callable[[], None]) -> None:
        """The predictor at `address` gets it. `on_abandoned` is called when no caller waits for it
        any more, unless it has come back before."""
        self._on_abandoned = on_abandoned
        for part in self.parts:
            part.sent(self, address)

    def came_back(self) -> None:
        """The predictor does not work on it any more."""
        self._on_abandoned = None

    def withdraw(self, part: Part) -> None:
        """One of its callers waits no more."""
        self._waiting -= 1
        if not self._waiting and self._on_abandoned is not None:
            self._on_abandoned()

    def settle(self, probabilities: bytes) -> None:
        """Give each part its rows of the answer: float32, one for each row of the block."""
        start = 0
        for part in self.parts:
            end = start + part.ticket.block.row_count * WIRE_DTYPE.itemsize
            part.holder = None
            part.ticket.settle(part, probabilities[start:end])
            start = end

    def fail(self, message: str, *, late: bool = False, rejected: bool = False) -> None:
        """Settle every part with a failure."""
        for part in self.parts:
            part.fail(message, late=late, rejected=rejected)

    def parts_alone(self) -> tuple[Part, ...]:
        """Its parts, each to be sent in a batch of its own."""
        for part in self.parts:
            part.alone = True
        return self.parts

    def parts_to_repeat(self, note: str) -> list[Part]:
        """The parts that may be sent once more after trouble; the others fail with `note`.

        Predictions may be repeated safely.
        """
        return _kept(self.parts, [part.may_be_repeated(note) for part in self.parts], note)

    def parts_to_move(self, note: str) -> list[Part]:
        """The parts for another predictor, as this one has not taken them; the others fail."""
        return _kept(self.parts, [part.may_move(note) for part in self.parts], note)


def _kept(parts: Sequence[Part], hopeful: Iterable[bool], note: str) -> list[Part]:
    kept = []
    for part, has_hope in zip(parts, hopeful, strict=True):
        if has_hope:
            kept.append(part)
        else:
            part.fail(note)
    return kept


def _joined(blocks: Sequence[Block]) -> Block:
    rows = sum(block.row_count for block in blocks)
    return Block(rows, blocks[0].column_count, b"".join([block.data for block in blocks]))
