"""Asking a system from this process, whether it speaks gRPC or plain HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import grpc
from grpc import aio

from bench.processes import has_ended
from bench.systems.known import Up

Ask: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Raises aio.AioRpcError or aiohttp.ClientError where there is no answer."""

CALL_S = 30.0
_TRY_S = 5.0
_RETRY_S = 0.1


class NoAnswer(Exception):
    """A system that does not answer, and why."""


@asynccontextmanager
async def asking(up: Up) -> AsyncIterator[Ask]:
    """Calls to a system, over connections that end with the context."""
    if up.plain_http:
        timeout = aiohttp.ClientTimeout(total=CALL_S)
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:

            async def post(message: bytes) -> bytes:
                url = f"http://{up.address}{up.method}"
                async with session.post(url, data=message, raise_for_status=True) as answer:
                    return await answer.read()

            yield post
        return
    async with aio.insecure_channel(up.address) as channel:
        method: Any = channel.unary_unary(up.method)

        async def call(message: bytes) -> bytes:
            return bytes(await method(message, timeout=CALL_S, wait_for_ready=True))

        yield call


def first_answer(up: Up, message: bytes, patience_s: float) -> bytes:
    """The first answer of a system that may still be starting.

    Raises NoAnswer when one of its processes has ended or time is up.
    """
    return asyncio.run(_first_answer(up, message, patience_s))


async def _first_answer(up: Up, message: bytes, patience_s: float) -> bytes:
    deadline = time.monotonic() + patience_s
    async with asking(up) as ask:
        while True:
            try:
                return await asyncio.wait_for(ask(message), _TRY_S)
            except (grpc.RpcError, aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise NoAnswer(f"no answer within {patience_s:g} s: {error!r:.300}") from error
                if any(map(has_ended, up.pids)):
                    raise NoAnswer("one of its processes has ended") from error
            await asyncio.sleep(_RETRY_S)
