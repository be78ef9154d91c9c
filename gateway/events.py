"""Server-sent events made of a stream of messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gateway.problems import answer_of
from gateway.streamed import Streamed, begun
from trillium.errors import Code, TrilliumError
from trillium.logs import REQUEST_ID

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_S = 15.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    kind: str
    data: Any

    def encoded(self) -> bytes:
        """As it is sent; JSON without line breaks needs one line of data."""
        data = json.dumps(self.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return f"event: {self.kind}\ndata: {data}\n\n".encode()


async def event_stream(
    messages: AsyncGenerator[Any], event_of: Callable[[Any], Event], draining: asyncio.Event
) -> Streamed:
    """The answer that tells `messages` until they end or `draining` is set; closes them.

    Raises TrilliumError when they fail before the first one.
    """
    parts = _encoded(await begun(messages), event_of, draining)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Streamed(parts, EVENT_STREAM, headers)


async def _encoded(
    messages: AsyncGenerator[Any], event_of: Callable[[Any], Event], draining: asyncio.Event
) -> AsyncGenerator[bytes]:
    ending = asyncio.create_task(draining.wait())
    async with aclosing(messages):
        following = asyncio.create_task(anext(messages))
        try:
            while True:
                wanted = {following, ending}
                await asyncio.wait(
                    wanted, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if following.done():
                    yield event_of(following.result()).encoded()
                    following = asyncio.create_task(anext(messages))
                elif ending.done():
                    return
                else:
                    yield b": nothing new\n\n"
        except StopAsyncIteration:
            return
        except TrilliumError as error:
            # The time that the caller set is an end like any other.
            if error.code is not Code.DEADLINE_EXCEEDED:
                answer = answer_of(error, REQUEST_ID.get(), path="")
                yield Event("problem", answer.content).encoded()
        finally:
            # A generator is closed only after nobody waits for it any longer.
            for task in (following, ending):
                task.cancel()
            await asyncio.gather(following, ending, return_exceptions=True)
