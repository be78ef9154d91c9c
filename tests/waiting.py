"""Waiting for something to become true, for tests that must not sleep and hope."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.005


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], within_s: float = 40.0
) -> None:
    """Return as soon as `condition` holds; AssertionError when it does not within `within_s`."""
    give_up = time.monotonic() + within_s
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {within_s:g} s: {inspect.getsource(condition)}")
        await asyncio.sleep(POLL_S)
