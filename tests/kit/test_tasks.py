"""Background tasks: whatever ends one is logged, and a loop goes on."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from tests.waiting import eventually
from trillium.server.tasks import Backoff, Supervisor, background, end

AT_ONCE = Backoff(first_s=0.001, longest_s=0.002)


class Flaw(Exception):
    """What is raised by mistake."""


class Loop:
    """A loop whose first runs end in a way that they should not."""

    def __init__(self, *flaws: BaseException | None) -> None:
        self._flaws = list(flaws)
        self.runs = 0
        self.steady = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self._flaws:
            if flaw := self._flaws.pop(0):
                raise flaw
            return
        self.steady.set()
        await asyncio.Event().wait()


def failures(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged as an error, with the task's name."""
    return [
        (record.message, vars(record)["task"])
        for record in caplog.records
        if record.levelno == logging.ERROR
    ]


@pytest.mark.parametrize(
    "flaw",
    [Flaw("broken"), asyncio.CancelledError(), None],
    ids=["raises", "cancelled-from-within", "returns"],
)
async def test_a_kept_loop_that_ends_is_logged_and_started_again(
    flaw: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(flaw, flaw)
    async with Supervisor(backoff=AT_ONCE) as supervisor:
        supervisor.keep("the loop", loop.run)
        await asyncio.wait_for(loop.steady.wait(), 10)
    assert loop.runs == 3
    assert [name for _, name in failures(caplog)] == ["the loop", "the loop"]


async def test_the_error_of_a_kept_loop_is_logged_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(Flaw("broken"))
    async with Supervisor(backoff=AT_ONCE) as supervisor:
        supervisor.keep("the loop", loop.run)
        await asyncio.wait_for(loop.steady.wait(), 10)
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Flaw)


async def test_closing_ends_every_task_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    async with Supervisor() as supervisor:
        kept = supervisor.keep("kept", loop.run)
        once = supervisor.start("once", asyncio.Event().wait())
        await loop.steady.wait()
    assert kept.cancelled()
    assert once.cancelled()
    assert failures(caplog) == []


async def test_cancelling_a_kept_loop_ends_it_for_good(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    async with Supervisor(backoff=AT_ONCE) as supervisor:
        task = supervisor.keep("kept", loop.run)
        await loop.steady.wait()
        await end(task)
        assert loop.runs == 1
    assert failures(caplog) == []


async def test_a_loop_that_keeps_failing_is_reported_until_it_runs_again() -> None:
    reports: list[tuple[str, bool]] = []
    loop = Loop(*[Flaw()] * 3)
    async with Supervisor(lambda *report: reports.append(report), AT_ONCE) as supervisor:
        supervisor.keep("the loop", loop.run)
        await eventually(lambda: reports == [("the loop", True), ("the loop", False)])
        assert loop.runs == 4


async def test_a_loop_that_fails_now_and_then_is_not_reported() -> None:
    reports: list[tuple[str, bool]] = []
    loop = Loop(Flaw(), Flaw())
    async with Supervisor(lambda *report: reports.append(report), AT_ONCE) as supervisor:
        supervisor.keep("the loop", loop.run)
        await asyncio.wait_for(loop.steady.wait(), 10)
    assert reports == []


async def test_work_that_nobody_waits_for_is_logged_when_it_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(Flaw())
    async with Supervisor() as supervisor:
        task = supervisor.start("work", loop.run())
        await asyncio.wait([task])
        await eventually(lambda: failures(caplog) == [("background task failed: work", "work")])


async def test_an_expected_error_is_left_to_those_who_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Supervisor() as supervisor:
        task = supervisor.start("work", Loop(Flaw()).run(), expected=Flaw)
        with pytest.raises(Flaw):
            await task
    assert failures(caplog) == []


async def test_a_background_task_ends_with_its_block() -> None:
    async with background("waiting", asyncio.Event().wait()) as task:
        assert not task.done()
    assert task.cancelled()


async def test_what_a_task_raises_while_it_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Flaw

    async with background("stubborn", stubborn()):
        await asyncio.sleep(0)
    assert failures(caplog) == [("background task failed: stubborn", "stubborn")]


async def test_a_background_task_that_has_failed_unseen_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with background("work", Loop(Flaw()).run()) as task:
        await asyncio.wait([task])
    del task
    gc.collect()
    [record] = caplog.records
    assert record.name == "asyncio"
    assert "name='work'" in record.message
    assert record.exc_info


async def test_the_error_of_a_background_task_is_the_blocks_to_handle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with background("work", Loop(Flaw()).run()) as task:
        with pytest.raises(Flaw):
            await task
    assert failures(caplog) == []


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=1.0, longest_s=10.0)
    assert [backoff.pause_s(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [
        *(1.0, 2.0, 4.0, 8.0),
        *(10.0, 10.0),
    ]
