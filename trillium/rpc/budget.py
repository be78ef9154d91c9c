"""How many bytes of requests a server holds at once."""

from __future__ import annotations

from collections import deque

from trillium.errors import Overloaded
from trillium.waking import Bell

STREAM_SHARE = 0.5
"""Streams may hold this share of the bytes together, so that callers who read no responses leave
the rest to others."""


SMALL_BYTES = 64 * 1024
"""Smaller messages of streams are not counted: some, as withdrawals and confirmations, get no
response that would give them back."""


class Budget:
    """The bytes of all requests that are being served. One request is always let in."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._held_by_streams = 0
        self._given_back = Bell()

    @property
    def held_bytes(self) -> int:
        """The bytes that are held."""
        return self._held

    def take(self, size: int) -> None:
        """Hold a request of `size` bytes until it is given back. Raises Overloaded."""
        if self._held and self._held + size > self._most:
            text = f"requests of {self._held} bytes are being served; at most {self._most} may be"
            raise Overloaded(f"{text}, and this one has {size}", retry_after_s=0.1)
        self._held += size

    def give_back(self, size: int) -> None:
        """Hold them no longer."""
        self._held -= size
        self._given_back.ring()

    async def take_for_stream(self, size: int) -> None:
        """The same for a message of a stream, which waits until there is room."""
        while not self._has_room_for_stream(size):
            await self._given_back.next().wait()
        self._held += size
        self._held_by_streams += size

    def give_back_for_stream(self, size: int) -> None:
        """Hold them no longer."""
        self._held_by_streams -= size
        self.give_back(size)

    def _has_room_for_stream(self, size: int) -> bool:
        if not self._held_by_streams:
            return not self._held or self._held + size <= self._most
        share = self._held_by_streams + size <= self._most * STREAM_SHARE
        return share and self._held + size <= self._most


class StreamShare:
    """What one stream holds: each response gives back the oldest message that counts.

    A response to a small message gives back a larger one early; never is one kept for too long.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._sizes: deque[int] = deque()

    async def take(self, size: int) -> None:
        """Hold one more message, once there is room; small ones do not count."""
        if size < SMALL_BYTES:
            return
        await self._budget.take_for_stream(size)
        self._sizes.append(size)

    def give_back_oldest(self) -> None:
        """Hold the oldest message no longer."""
        if self._sizes:
            self._budget.give_back_for_stream(self._sizes.popleft())

    def close(self) -> None:
        """Hold nothing any longer."""
        while self._sizes:
            self.give_back_oldest()
