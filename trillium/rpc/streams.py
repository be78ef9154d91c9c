"""Answers the requests of one stream several at a time, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from trillium.errors import Draining
from trillium.server.tasks import end

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MAX_IN_FLIGHT = 64
"""Requests of one stream that are held at once; then the transport holds the caller back."""


async def answer_requests(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Coroutine[Any, Any, Answer]],
    draining: asyncio.Event,
    *,
    in_order: bool,
) -> AsyncGenerator[Answer]:
    """Yield the answer to each request: as soon as it is there, or in the order of the requests.

    Ends when the requests end and everything taken has been answered. Once `draining` is set, takes
    no more requests and raises Draining instead of ending. An exception of `answer` or of the
    requests ends the stream. Closing the generator cancels what is in flight.
    """
    room = asyncio.Semaphore(MAX_IN_FLIGHT)
    queue: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    pending: set[asyncio.Task[Answer]] = set()

    async def take() -> None:
        async for request in requests:
            await room.acquire()
            task = asyncio.create_task(answer(request))
            pending.add(task)
            if in_order:
                queue.put_nowait(task)
            else:
                task.add_done_callback(queue.put_nowait)
            # Neither is to be kept until the next request comes.
            del request, task

    taking = asyncio.create_task(take())
    stopping = asyncio.create_task(draining.wait())
    stopping.add_done_callback(partial(_cancel, taking))
    taking.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while pending or not taking.done():
            task = await queue.get()
            if task is None:
                if not taking.cancelled():
                    taking.result()
                continue
            response = await task
            pending.discard(task)
            room.release()
            yield response
            del task, response
        if not taking.cancelled():
            taking.result()
        if draining.is_set():
            text = "the server stops; what was taken has been answered, send the rest again"
            raise Draining(text)
    finally:
        leftover = {taking, stopping, *pending}
        await end(*leftover)
        for each in leftover:
            # The stream raises one error; the caller never learns of others.
            if not each.cancelled():
                each.exception()
        # The exception of a task has this frame in its traceback.
        task = None
        del taking, leftover, each


def _cancel(task: asyncio.Task[Any], _: object) -> None:
    task.cancel()
