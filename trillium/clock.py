"""Time, as a thing that is handed in, so that a test can move it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a component reads the time."""

    def monotonic(self) -> float:
        """Seconds that only ever grow; for deadlines and durations."""
        ...

    def now(self) -> datetime:
        """The wall clock's time in UTC, to the millisecond, as precise as stores keep it; for
        people and records."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


class SteadyClock:
    """The time that the machine's clock had when this was made, and what has passed since.

    However that clock is set meanwhile, nothing that is timed by this one ends sooner or later.
    The time that a machine sleeps counts where the system tells it, as Linux does.
    """

    def __init__(self) -> None:
        self._began, self._at = SystemClock().now(), _passed_s()

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        now = self._began + timedelta(seconds=_passed_s() - self._at)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _passed_s() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
