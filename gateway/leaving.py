"""Noticing that a caller has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from trillium.errors import Cancelled

T = TypeVar("T")


async def gone(receive: Receive) -> None:
    """Return when the caller whose request was read has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(answering: Awaitable[T], receive: Receive) -> T:
    """What `answering` answers; it is cancelled when the caller goes away. Raises Cancelled."""
    working = asyncio.ensure_future(answering)
    leaving = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("the caller went away before there was an answer")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
        # What `working` raised has this frame in its traceback: a cycle, which would keep the
        # request until a garbage collection.
        del working, leaving, task
