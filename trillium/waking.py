"""Waking tasks of one event loop: whoever waits learns that something happened, not what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


class Bell:
    """Rings for everybody who waits at that moment.

    Whoever looks at something and waits for its next change asks for `next` first and looks then,
    so that no ring in between is missed.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """An event that is set by the next ring after this call."""
        return self._event

    def ring(self) -> None:
        """Set off what was answered by `next` so far."""
        self._event.set()
        self._event = asyncio.Event()


async def first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Wait until one of `waits` is over, at most `timeout_s` seconds; the others are cancelled.

    Raises what one of them raised.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
