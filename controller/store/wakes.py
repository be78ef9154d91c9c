"""Who watches a store inside this process, and waking them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable

from .port import Kind, StoreUnavailable


class StoreWatches:
    """Hands news of changes to every watch of one store. For one event loop."""

    def __init__(self) -> None:
        self._watches: dict[asyncio.Event, frozenset[Kind]] = {}
        self._closing = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called last, and not `reopen`."""
        return self._closing.is_set()

    @property
    def are_awaited(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watches)

    def wake(self, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """Records of these kinds may have changed. Several wakes may arrive as one."""
        changed = frozenset(kinds)
        for event, watched in self._watches.items():
            if watched & changed:
                event.set()

    def close(self) -> None:
        """End every watch, now and later, with StoreUnavailable."""
        self._closing.set()
        for event in self._watches:
            event.set()

    def reopen(self) -> None:
        """Let watches begin again."""
        self._closing.clear()

    async def pause(self, duration_s: float) -> None:
        """Returns after `duration_s` seconds, or as soon as this is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._closing.wait()

    async def watch(self, kinds: Iterable[Kind]) -> AsyncGenerator[None, None]:
        """Yields at once, and then after every wake of one of `kinds`."""
        event = asyncio.Event()
        event.set()
        self._watches[event] = frozenset(kinds) or frozenset(Kind)
        try:
            while True:
                await event.wait()
                # Cleared before the reader looks: a change that comes while it looks wakes again.
                event.clear()
                if self.is_closed:
                    raise StoreUnavailable("the store is closed")
                yield
        finally:
            del self._watches[event]
