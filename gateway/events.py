"""Server-sent events from a stream of messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from trillium.errors import Code, TrilliumError
from trillium.server.logs import REQUEST_ID
from trillium.server.tasks import background

from .problems import answer_of
from .streamed import Streamed, begun

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_S = 15.0


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event."""

    kind: str
    data: Any

    def encoded(self) -> bytes:
        """The event as bytes. JSON without line breaks needs one line of data."""
        data = json.dumps(self.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return f"event: {self.kind}\ndata: {data}\n\n".encode()


async def event_stream(
    messages: AsyncGenerator[Any],
    event_of: Callable[[Any], ServerSentEvent],
    draining: asyncio.Event,
) -> Streamed:
    """A response with an event for each of `messages`, until they end or `draining` is set.

    Closes `messages`. Raises TrilliumError if they fail before the first one.
    """
    parts = _encoded(await begun(messages), event_of, draining)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Streamed(parts, EVENT_STREAM, headers)


async def _encoded(
    messages: AsyncGenerator[Any],
    event_of: Callable[[Any], ServerSentEvent],
    draining: asyncio.Event,
) -> AsyncGenerator[bytes]:
    async with aclosing(messages), background("drain", draining.wait()) as ending:
        try:
            while True:
                async with background("next event", anext(messages)) as following:
                    tasks = (following, ending)
                    while not await _any_done(tasks):
                        yield b": nothing new\n\n"
                    if not following.done():
                        return
                    yield event_of(following.result()).encoded()
        except StopAsyncIteration:
            return
        except TrilliumError as error:
            # A watch also ends, without a problem, at the deadline that the caller set.
            if error.code is not Code.DEADLINE_EXCEEDED:
                answer = answer_of(error, REQUEST_ID.get(), path="")
                yield ServerSentEvent("problem", answer.content).encoded()


async def _any_done(tasks: Collection[asyncio.Task[Any]]) -> bool:
    """Whether any of `tasks` ends within `KEEP_ALIVE_S`."""
    done, _ = await asyncio.wait(tasks, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
