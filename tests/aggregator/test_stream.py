"""Requests of one stream, answered side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from aggregator.stream import MAX_IN_FLIGHT, answer_side_by_side
from tests.waiting import eventually


async def counting(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_a_slow_request_does_not_hold_up_the_next() -> None:
    gate = asyncio.Event()

    async def answer(request: int) -> int:
        if request == 0:
            await gate.wait()
        return request

    answers = answer_side_by_side(counting(3), answer, asyncio.Event())
    async with aclosing(answers):
        assert {await anext(answers), await anext(answers)} == {1, 2}
        gate.set()
        assert [each async for each in answers] == [0]


async def test_no_more_than_the_limit_are_worked_on_at_once() -> None:
    gate = asyncio.Event()
    begun: list[int] = []

    async def answer(request: int) -> int:
        begun.append(request)
        await gate.wait()
        return request

    async def drain() -> list[int]:
        return [each async for each in answer_side_by_side(counting(200), answer, asyncio.Event())]

    task = asyncio.create_task(drain())
    await eventually(lambda: len(begun) == MAX_IN_FLIGHT)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(begun) == MAX_IN_FLIGHT
    gate.set()
    assert sorted(await task) == list(range(200))


async def test_what_was_taken_is_answered_when_there_is_enough() -> None:
    enough, gate = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def answer(request: int) -> int:
        await gate.wait()
        return request

    answers = answer_side_by_side(requests(), answer, enough)
    first = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0)
    enough.set()
    await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    assert await first == 1
    assert [each async for each in answers] == []


@pytest.mark.parametrize("hops", range(6))
async def test_an_error_of_the_requests_is_raised_whenever_it_comes(hops: int) -> None:
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        raise ValueError("no message")

    async def answer(request: int) -> int:
        return request

    answers = answer_side_by_side(requests(), answer, asyncio.Event())
    assert await anext(answers) == 1
    gate.set()
    for _ in range(hops):
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="no message"):
        await anext(answers)


async def test_closing_it_cancels_what_is_under_way() -> None:
    cancelled: list[int] = []

    async def answer(request: int) -> int:
        if request == 0:
            return 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request)
            raise
        return request

    before = asyncio.all_tasks()
    answers = answer_side_by_side(counting(4), answer, asyncio.Event())
    assert await anext(answers) == 0
    await eventually(lambda: len(asyncio.all_tasks() - before) >= 4)
    await answers.aclose()
    assert sorted(cancelled) == [1, 2, 3]
    assert asyncio.all_tasks() == before
