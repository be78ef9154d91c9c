"""Requests of one stream, answered several at a time, in their order or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from tests.waiting import eventually
from trillium.errors import Draining
from trillium.rpc.streams import MAX_IN_FLIGHT, answer_requests

either = pytest.mark.parametrize("in_order", [False, True], ids=["any-order", "in-order"])


async def counting(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_a_slow_request_does_not_hold_up_the_next() -> None:
    gate = asyncio.Event()

    async def answer(request: int) -> int:
        if request == 0:
            await gate.wait()
        return request

    answers = answer_requests(counting(3), answer, asyncio.Event(), in_order=False)
    async with aclosing(answers):
        assert {await anext(answers), await anext(answers)} == {1, 2}
        gate.set()
        assert [each async for each in answers] == [0]


@either
async def test_no_more_than_the_limit_are_worked_on_at_once(in_order: bool) -> None:
    gate = asyncio.Event()
    begun: list[int] = []

    async def answer(request: int) -> int:
        begun.append(request)
        await gate.wait()
        return request

    async def drain() -> list[int]:
        return [
            each
            async for each in answer_requests(
                counting(200), answer, asyncio.Event(), in_order=in_order
            )
        ]

    task = asyncio.create_task(drain())
    await eventually(lambda: len(begun) == MAX_IN_FLIGHT)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(begun) == MAX_IN_FLIGHT
    gate.set()
    assert sorted(await task) == list(range(200))


async def test_answers_come_in_the_order_of_the_requests() -> None:
    async def answer(request: int) -> int:
        for _ in range(10 - request):
            await asyncio.sleep(0)
        return request

    answers = answer_requests(counting(10), answer, asyncio.Event(), in_order=True)
    assert [each async for each in answers] == list(range(10))


@either
async def test_what_was_taken_is_answered_before_the_stream_drains(in_order: bool) -> None:
    enough, gate = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def answer(request: int) -> int:
        await gate.wait()
        return request

    answers = answer_requests(requests(), answer, enough, in_order=in_order)
    first = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    enough.set()
    await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    assert await first == 1
    with pytest.raises(Draining):
        await anext(answers)


@either
@pytest.mark.parametrize("hops", range(6))
async def test_an_error_of_the_requests_is_raised_whenever_it_comes(
    hops: int, in_order: bool
) -> None:
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        raise ValueError("no message")

    async def answer(request: int) -> int:
        return request

    answers = answer_requests(requests(), answer, asyncio.Event(), in_order=in_order)
    assert await anext(answers) == 1
    gate.set()
    for _ in range(hops):
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="no message"):
        await anext(answers)


@either
async def test_closing_it_cancels_what_is_under_way(in_order: bool) -> None:
    begun: list[int] = []
    cancelled: list[int] = []

    async def answer(request: int) -> int:
        if request == 0:
            return 0
        begun.append(request)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request)
            raise
        return request

    before = asyncio.all_tasks()
    answers = answer_requests(counting(4), answer, asyncio.Event(), in_order=in_order)
    assert await anext(answers) == 0
    await eventually(lambda: len(begun) == 3)
    await answers.aclose()
    assert sorted(cancelled) == [1, 2, 3]
    assert asyncio.all_tasks() == before
