"""Counts requests and the time that they took, for statistics of a model. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

from trillium.clock import Clock
from trillium.errors import Cancelled, TrilliumError


@dataclass(slots=True)
class Spent:
    """A number of events, and the time that they took together."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """One more event, which took `seconds`."""
        self.count += 1
        self.ns += round(max(0.0, seconds) * 1e9)


@dataclass(slots=True)
class Statistics:
    """What one model has done."""

    last: datetime | None = None
    """When it was asked last."""
    row_count: int = 0
    """Rows that were answered."""
    run_count: int = 0
    """Requests that were answered."""
    success: Spent = field(default_factory=Spent)
    """Requests that were answered, from arrival to answer."""
    fail: Spent = field(default_factory=Spent)
    """Requests that failed; those that their callers withdrew count nowhere."""
    queue: Spent = field(default_factory=Spent)
    """How long answered requests waited for their turn."""
    read: Spent = field(default_factory=Spent)
    """How long reading the rows took, where that was measured."""
    run: Spent = field(default_factory=Spent)
    """How long answered requests took from then on."""
    write: Spent = field(default_factory=Spent)
    """How long writing the answer took, where that was measured."""

    def asked(self, row_count: int, clock: Clock) -> Timing:
        """A request has come; the timing is used as a context until it is answered."""
        return Timing(self, row_count, clock)


class Timing:
    """Times one request: `with statistics.asked(...) as timing`."""

    __slots__ = ("_clock", "_left", "_row_count", "_started", "_statistics", "has_left")

    def __init__(self, statistics: Statistics, row_count: int, clock: Clock) -> None:
        self._statistics = statistics
        self._row_count = row_count
        self._clock = clock
        self._started = self._left = clock.monotonic()
        self.has_left = False
        """Whether its turn has come."""

    def left_queue(self) -> None:
        """Its turn has come; the last time counts. May be called from another thread."""
        self._left = self._clock.monotonic()
        self.has_left = True

    def __enter__(self) -> Timing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        to = self._statistics
        ended = self._clock.monotonic()
        to.last = self._clock.now()
        if error is None:
            to.row_count += self._row_count
            to.run_count += 1
            to.success.add(ended - self._started)
            to.queue.add(self._left - self._started)
            to.run.add(ended - self._left)
        elif isinstance(error, TrilliumError) and not isinstance(error, Cancelled):
            to.fail.add(ended - self._started)
