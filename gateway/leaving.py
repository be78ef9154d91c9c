"""Notices callers that close their connection before they have an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from trillium.errors import Cancelled
from trillium.server.tasks import background

T = TypeVar("T")


async def gone(receive: Receive) -> None:
    """Return when the caller closes the connection; the request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the caller closes the connection.

    Raises Cancelled then, and whatever `work` raises.
    """
    async with background("request", work) as working, background("caller", gone(receive)) as left:
        try:
            await asyncio.wait((working, left), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            left.result()
            raise Cancelled("the caller closed the connection before there was an answer")
        finally:
            # The traceback of what `work` raises holds this frame: with the task in it, a cycle
            # would keep the request until a garbage collection.
            del working, left
