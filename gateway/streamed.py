"""Answers that are sent while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.leaving import gone


class Streamed(Response):
    """Sends what `parts` yields until it ends, or until the caller goes away; then closes it.

    What `parts` raises is raised to the caller of this; the connection then ends in the middle of
    the body, so that nobody takes a part for the whole.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.body = b""
        self.background = None
        self._parts = parts
        self.init_headers(headers)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            # What `sending` raised has this frame in its traceback: a cycle.
            del sending, leaving, task

    async def _send(self, send: Send) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
        async with aclosing(self._parts) as parts:
            await send({**start, "headers": self.raw_headers})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def begun(parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """`parts` once its first one is there, so that an early error can still be an answer."""
    try:
        first = [await anext(parts)]
    except StopAsyncIteration:
        first = []
    except BaseException:
        await parts.aclose()
        raise
    return _chained(first, parts)


async def _chained(first: list[Any], rest: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    async with aclosing(rest):
        for each in first:
            yield each
        async for each in rest:
            yield each
