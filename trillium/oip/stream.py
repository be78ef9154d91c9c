"""Answers the requests of one stream in their order, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MAX_IN_FLIGHT = 64
"""Requests of one stream that are held at once; then the transport holds the caller back."""


async def answer_in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Answer]],
    enough: asyncio.Event,
) -> AsyncGenerator[Answer]:
    """Yield the answer to each request, in the order of the requests, working on several at once.

    Ends when the requests end, or takes no more of them once `enough` is set, and everything taken
    has been answered. An exception of `answer` or of the requests ends the stream. Closing the
    generator cancels what is under way.
    """
    slots = asyncio.Semaphore(MAX_IN_FLIGHT)
    taken: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    running: set[asyncio.Task[Answer]] = set()

    async def take() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.ensure_future(answer(request))
            running.add(task)
            taken.put_nowait(task)
            # Neither is to be kept until the next request comes.
            del request, task

    taking = asyncio.create_task(take())
    sated = asyncio.create_task(enough.wait())
    sated.add_done_callback(partial(_cancel, taking))
    taking.add_done_callback(lambda _: taken.put_nowait(None))
    try:
        while (task := await taken.get()) is not None:
            response = await task
            running.discard(task)
            slots.release()
            yield response
            del task, response
        if not taking.cancelled():
            taking.result()
    finally:
        leftover = {taking, sated, *running}
        for each in leftover:
            each.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        # The exception of a task has this frame in its traceback.
        task = None
        del taking, leftover, each


def _cancel(task: asyncio.Task[Any], _: object) -> None:
    task.cancel()
