"""Answers the requests of one stream side by side, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MAX_IN_FLIGHT = 64
"""Requests of one stream that are worked on at once; then the transport holds the caller back."""


async def answer_side_by_side(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Answer]],
    enough: asyncio.Event,
) -> AsyncGenerator[Answer]:
    """Yield the answer to each request as soon as it is there.

    Ends when the requests end, or takes no more of them once `enough` is set, and everything taken
    has been answered. An exception of `answer` or of the requests ends the stream. Closing the
    generator cancels what is under way.
    """
    slots = asyncio.Semaphore(MAX_IN_FLIGHT)
    finished: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    running: set[asyncio.Task[Answer]] = set()

    def on_done(task: asyncio.Task[Answer]) -> None:
        running.discard(task)
        finished.put_nowait(task)

    async def take() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.ensure_future(answer(request))
            running.add(task)
            task.add_done_callback(on_done)
            # Neither is to be kept until the next request comes.
            del request, task

    taking = asyncio.create_task(take())
    sated = asyncio.create_task(enough.wait())
    sated.add_done_callback(partial(_cancel, taking))
    taking.add_done_callback(lambda _: finished.put_nowait(None))
    try:
        while running or not finished.empty() or not taking.done():
            task = await finished.get()
            if task is None:
                if not taking.cancelled():
                    taking.result()
                continue
            slots.release()
            yield task.result()
            del task
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
