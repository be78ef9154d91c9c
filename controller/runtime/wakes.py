"""Who watches a runtime inside this process, and waking them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from .port import RuntimeUnreachable


class RuntimeWatches:
    """Wakes every watch of one runtime when containers may have changed. For one event loop."""

    def __init__(self) -> None:
        self._watches: set[asyncio.Event] = set()
        self._closed = False

    def wake(self) -> None:
        """Wake every watch. Several wakes may arrive as one."""
        for event in self._watches:
            event.set()

    def close(self) -> None:
        """End every watch, now and later, with RuntimeUnreachable."""
        self._closed = True
        self.wake()

    async def watch(self) -> AsyncGenerator[None, None]:
        """Yields at once, and then after every wake."""
        event = asyncio.Event()
        event.set()
        self._watches.add(event)
        try:
            while True:
                await event.wait()
                # Cleared before the reader looks: a change that comes while it looks wakes again.
                event.clear()
                if self._closed:
                    raise RuntimeUnreachable("the runtime is closed")
                yield
        finally:
            self._watches.discard(event)
