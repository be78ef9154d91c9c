"""A request that takes unusually long goes to a second predictor; one answer counts, whatever the
other one does."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest

from aggregator.lanes import hedging
from aggregator.lanes.hedging import ENOUGH, LEAST_S, SEEN, Hedging
from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor, after, hangs
from tests.aggregator.serving import Aggregated, before_fakes, failure_of
from tests.waiting import eventually

ROW = [[0.5, 0.25, 0.125]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is new is hedged soon, too."""
    monkeypatch.setattr(hedging, "FIRST_S", 0.01)


def replicas() -> list[FakePredictor]:
    return [FakePredictor(), FakePredictor()]


def sent_to(fakes: list[FakePredictor]) -> int:
    return sum(len(fake.requests) for fake in fakes)


async def all_are_ready(served: Aggregated) -> None:
    roster = served.aggregator.roster
    await eventually(lambda: all(roster.is_ready(each.endpoint) for each in roster.entries))


def script_the_first(both: list[FakePredictor], *reactions: fakes.Reaction) -> None:
    """The first request of all gets the first reaction, whoever gets it, and so on."""
    left = list(reactions)

    async def react(fake: FakePredictor, request: fakes.Request) -> bytes:
        return await (left.pop(0) if left else fakes.scores)(fake, request)

    for fake in both:
        fake.otherwise = react


async def test_a_predictor_that_hangs_is_made_up_for_by_another_one() -> None:
    both = replicas()
    script_the_first(both, hangs)
    async with before_fakes(*both) as served:
        await all_are_ready(served)
        assert (await served.scores(ROW, timeout=30)).tolist() == [[0.5]]
        assert sent_to(both) == 2
        # The one that lost is told.
        await eventually(lambda: sum(len(fake.withdrawn) for fake in both) == 1)
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        await served.until_idle()


async def test_the_first_answer_counts_though_the_second_predictor_breaks() -> None:
    both, gate = replicas(), asyncio.Event()
    script_the_first(both, after(gate), fakes.breaks)
    async with before_fakes(*both) as served:
        await all_are_ready(served)
        call = asyncio.ensure_future(served.scores(ROW))
        await eventually(lambda: sent_to(both) == 2)
        # Its link has noticed, and has a new stream.
        await eventually(lambda: sum(fake.stream_count for fake in both) == 3)
        gate.set()
        assert (await call).tolist() == [[0.5]]


async def test_two_failures_are_one() -> None:
    both, gate = replicas(), asyncio.Event()
    fails = fakes.fails(3, "no such rows")
    script_the_first(both, after(gate, fails), after(gate, fails))
    async with before_fakes(*both) as served:
        await all_are_ready(served)
        call = asyncio.ensure_future(failure_of(served.predict(ROW)))
        await eventually(lambda: sent_to(both) == 2)
        gate.set()
        failed = await call
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
        (missing,) = failed.missing
        assert missing.message == "no such rows"
        await served.until_idle()


async def test_who_is_late_twice_is_named_once() -> None:
    both = replicas()
    script_the_first(both, hangs, hangs)
    async with before_fakes(*both, default_timeout_s=2.0) as served:
        await all_are_ready(served)
        failed = await failure_of(served.predict(ROW, timeout=None))
        assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(failed.missing) == 1
        await eventually(lambda: sent_to(both) == 2)


async def test_without_a_share_nothing_is_sent_twice() -> None:
    both = replicas()
    script_the_first(both, hangs)
    async with before_fakes(*both, default_timeout_s=0.5, hedge_share=0.0) as served:
        await all_are_ready(served)
        assert (await failure_of(served.predict(ROW, timeout=None))).missing
        assert sent_to(both) == 1


def test_what_is_usual_follows_from_the_last_batches() -> None:
    usual = Hedging(0.05)
    for _ in range(ENOUGH - 1):
        usual.answered(0.5, 1)
    assert usual.after_s == hedging.FIRST_S
    usual.answered(0.5, 1)
    assert usual.after_s == 0.5
    for number in range(SEEN):
        usual.answered(9.0 if number % 25 == 0 else 0.03, 1)
    assert usual.after_s == 0.03
    for _ in range(SEEN):
        usual.answered(0.001, 1)
    assert usual.after_s == LEAST_S
    assert Hedging(0.0).after_s == math.inf


def test_the_share_of_what_is_sent_twice_is_bounded() -> None:
    bounded = Hedging(0.05)
    quiet = sum(bounded.allows(1) for _ in range(1000))
    assert quiet <= 64
    sent = 0
    for _ in range(1000):
        bounded.answered(0.01, 4)
        sent += bounded.allows(1)
    assert 190 <= sent <= 200
    assert not any(Hedging(0.0).allows(1) for _ in range(10))
