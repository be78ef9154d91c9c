"""Waiting for something to become true, for tests that must not sleep and hope."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.005
POLL_MOST_S = 0.05
"""Where it takes long, it is asked less often: asking costs what all wait for."""


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], within_s: float = 40.0
) -> None:
    """Return as soon as `condition` holds; AssertionError when it does not within `within_s`."""
    began = time.monotonic()
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            raise AssertionError(f"not within {within_s:g} s: {inspect.getsource(condition)}")
        await asyncio.sleep(min(max(POLL_S, waited_s / 20), POLL_MOST_S))
