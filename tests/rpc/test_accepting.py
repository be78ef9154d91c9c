"""A server with many accepts takes what is there at once, survives its defects, and leaves nothing.

What it answers is held by test_front, on the server with many accepts and on the one without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.toy import CALL_S, NAME, Playing, Toy, playing, toy_door
from tests.waiting import eventually
from trillium.rpc import accepting
from trillium.rpc.front import Front
from trillium.rpc.methods import Limits

CALLERS = 16
PATH = f"/{NAME}/One"


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grpcio without a name that is needed."""
    monkeypatch.setitem(accepting.PRIVATE_NAMES, "AioServer.gone", ())
    accepting._warn_of.cache_clear()


class Turns:
    """Counts the turns of the event loop while it is entered."""

    def __init__(self) -> None:
        self.count = 0
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> Turns:
        self._next()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _next(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)


async def turns_of_arrivals(play: Playing, monkeypatch: pytest.MonkeyPatch) -> int:
    """Turns of the loop from the first to the last handler's start, of calls made at once."""
    with Turns() as turns:
        began: list[int] = []
        do = play.toy._do

        async def noted(what: str, method: str) -> StringValue:
            began.append(turns.count)
            return await do(what, method)

        with monkeypatch.context() as patched:
            patched.setattr(play.toy, "_do", noted)
            request = StringValue(value="x")
            calls = [play.one(request, timeout=CALL_S) for _ in range(CALLERS)]
            assert [(await call).value for call in calls] == ["X"] * CALLERS
    return began[-1] - began[0]


def test_installed_grpcio_has_the_private_names() -> None:
    assert accepting.unusable_names() == []


async def test_calls_that_are_there_at_once_arrive_in_fewer_turns_than_there_are_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with playing() as play:

        async def arrive_together() -> bool:
            # On a busy machine some come late by themselves.
            return await turns_of_arrivals(play, monkeypatch) < CALLERS

        await eventually(arrive_together)


@pytest.mark.usefixtures("one_by_one")
async def test_stock_server_takes_more_turns_than_there_are_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # When this fails, grpcio accepts quickly by itself, and trillium.rpc.accepting may go.
    async with playing() as play:

        async def arrive_one_by_one() -> bool:
            # On a busy machine the loop may be held up until all are there.
            return await turns_of_arrivals(play, monkeypatch) > CALLERS

        await eventually(arrive_one_by_one)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_serves_and_stops_on_any_event_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def serve() -> None:
        async with playing() as play:
            calls = [play.one(StringValue(value=str(n)), timeout=CALL_S) for n in range(100)]
            assert [(await call).value for call in calls] == [*map(str, range(100))]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())


async def test_server_that_has_stopped_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    front = Front((Toy().service(),), ("127.0.0.1:0",), Limits(), door=toy_door())
    await front.start()
    assert asyncio.all_tasks() > before
    await front.stop(0)
    assert asyncio.all_tasks() == before


async def test_server_that_has_served_and_stopped_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with playing() as play:
        hanging = [play.one(StringValue(value="hang"), timeout=CALL_S) for _ in range(CALLERS)]
        await eventually(lambda: play.front.in_flight == CALLERS)
        await play.front.stop(0)
        assert play.toy.cancelled == ["One"] * CALLERS
        for call in hanging:
            assert (await call.code()).name in ("UNAVAILABLE", "CANCELLED")
    await eventually(lambda: asyncio.all_tasks() == before)


async def test_stop_lets_calls_in_flight_finish() -> None:
    async with playing() as play:
        go = asyncio.Event()
        do = play.toy._do

        async def waits(what: str, method: str) -> StringValue:
            await go.wait()
            return await do(what, method)

        play.toy._do = waits  # type: ignore[method-assign]
        calls = [play.one(StringValue(value="x"), timeout=CALL_S) for _ in range(CALLERS)]
        await eventually(lambda: play.front.in_flight == CALLERS)
        stop = asyncio.ensure_future(play.front.stop(CALL_S))
        go.set()
        await stop
        assert [(await call).value for call in calls] == ["X"] * CALLERS


async def test_accept_that_fails_is_logged_and_accepts_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = accepting._Core._request_registered_call
    failures = 0

    async def fails_first(core: Any, method: bytes) -> Any:
        nonlocal failures
        if method == PATH.encode() and failures < 3:
            failures += 1
            raise RuntimeError("a defect of grpcio")
        return await real(core, method)

    monkeypatch.setattr(accepting, "PAUSE_S", 0.0)
    monkeypatch.setattr(accepting._Core, "_request_registered_call", fails_first, raising=False)
    async with playing() as play:
        assert (await play.one(StringValue(value="x"), timeout=CALL_S)).value == "X"
    records = [record for record in caplog.records if record.name == accepting.log.name]
    assert [record.getMessage() for record in records] == ["a call could not be accepted"] * 3
    assert {vars(record)["method"] for record in records} == {PATH}
    assert all(
        str((record.exc_info or [None] * 2)[1]) == "a defect of grpcio" for record in records
    )


async def test_call_whose_task_fails_is_logged_and_the_next_one_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = accepting._cygrpc._schedule_rpc_coro
    failures = 0

    async def fails_first(handling: Any, *rest: Any) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            handling.close()
            raise RuntimeError("a defect of grpcio")
        await real(handling, *rest)

    async with playing() as play:
        monkeypatch.setattr(accepting._cygrpc, "_schedule_rpc_coro", fails_first)
        lost = play.one(StringValue(value="x"), timeout=CALL_S)
        await eventually(lambda: failures == 1)
        assert (await play.one(StringValue(value="y"), timeout=CALL_S)).value == "Y"
        lost.cancel()
    (record,) = [record for record in caplog.records if record.name == accepting.log.name]
    assert record.getMessage() == "the task of a call failed"
    assert record.exc_info is not None


@pytest.mark.usefixtures("one_by_one")
async def test_missing_names_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        async with playing() as play:
            assert (await play.one(StringValue(value="x"), timeout=CALL_S)).value == "X"
    (record,) = [record for record in caplog.records if record.name == accepting.log.name]
    assert record.levelno == logging.WARNING
    assert vars(record)["missing"] == ("AioServer.gone",)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("AioServer.gone", None),
        ("Gone.start", ("self",)),
        ("_handle_rpc", ("other",)),
        ("AioServer", ("self",)),
    ],
)
def test_name_that_is_gone_or_takes_other_parameters_is_unusable(
    monkeypatch: pytest.MonkeyPatch, name: str, parameters: tuple[str, ...] | None
) -> None:
    monkeypatch.setitem(accepting.PRIVATE_NAMES, name, parameters)
    assert accepting.unusable_names() == [name]


async def test_server_that_cannot_be_replaced_serves_as_grpcio_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accepting._warn_of.cache_clear()
    # As if grpc.aio took its class from somewhere else.
    monkeypatch.setattr(accepting, "_core_is_ours", nullcontext)
    async with playing() as play:
        assert (await play.one(StringValue(value="x"), timeout=CALL_S)).value == "X"
    (record,) = [record for record in caplog.records if record.name == accepting.log.name]
    assert vars(record)["missing"] == ("aio.Server._server",)
