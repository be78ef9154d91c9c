"""Responses that are sent while they are produced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trillium.server.tasks import background

from .leaving import gone


class Streamed(Response):
    """Sends what `parts` yields until it ends or the caller closes the connection; then closes it.

    An error of `parts` is raised here. The connection then ends in the middle of the body, so that
    no client takes a part for the whole.
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
        async with (
            background("response", self._send(send)) as sending,
            background("caller", gone(receive)) as left,
        ):
            try:
                await asyncio.wait((sending, left), return_when=asyncio.FIRST_COMPLETED)
                (sending if sending.done() else left).result()
            finally:
                # The traceback of what `sending` raises holds this frame: a cycle otherwise.
                del sending, left

    async def _send(self, send: Send) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": self.status_code}
        async with aclosing(self._parts) as parts:
            await send({**start, "headers": self.raw_headers})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def begun(parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """`parts`, once the first one is available: an error before it can still set the status."""
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
