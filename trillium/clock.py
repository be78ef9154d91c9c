"""Time, as a thing that is handed in, so that a test can move it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
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
