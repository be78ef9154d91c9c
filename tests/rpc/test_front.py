"""All four kinds of RPC through the one wrapper round handlers, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from tests.rpc.errors import Failure, failed, refused
from tests.rpc.toy import NAME, SECRET, Playing, Toy, playing
from tests.waiting import eventually
from trillium.rpc.front import AddressInUse, AioFront
from trillium.rpc.methods import Limits


@pytest.fixture
async def play() -> AsyncIterator[Playing]:
    async with playing() as play:
        yield play


def said(*words: str) -> list[StringValue]:
    return [StringValue(value=word) for word in words]


async def ask_one(play: Playing, word: str, **options: Any) -> Any:
    return (await play.one(*said(word), timeout=10, **options)).value


async def ask_down(play: Playing, word: str, **options: Any) -> Any:
    return [each.value async for each in play.down(*said(word), timeout=10, **options)][1]


async def ask_up(play: Playing, word: str, **options: Any) -> Any:
    return (await play.up(iter(said(word)), timeout=10, **options)).value


async def ask_both(play: Playing, word: str, **options: Any) -> Any:
    (answer,) = [each.value async for each in play.both(iter(said(word)), timeout=10, **options)]
    return answer


Ask = Callable[..., Awaitable[Any]]
KINDS: dict[str, Ask] = {"One": ask_one, "Down": ask_down, "Up": ask_up, "Both": ask_both}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
async def test_answers_pass(play: Playing, kind: str) -> None:
    assert await KINDS[kind](play, "hello") == "HELLO"
    (call,) = play.toy.calls
    assert call.method == f"/{NAME}/{kind}"
    assert call.peer.startswith("ipv4:127.0.0.1:")
    await eventually(lambda: play.front.in_flight == 0)


@each_kind
async def test_error_arrives_with_all_its_details(play: Playing, kind: str) -> None:
    metadata = (("x-request-id", "flower-1"),)
    assert await refused(partial(KINDS[kind], play, "wrong", metadata=metadata)) == Failure(
        code="INVALID_ARGUMENT",
        reason="INVALID_REQUEST",
        domain="trillium",
        message="value: is wrong",
        request_id="flower-1",
        fields={"value": "is wrong"},
    )
    full = await refused(partial(KINDS[kind], play, "full"))
    assert (full.code, full.reason, full.retry_s) == ("RESOURCE_EXHAUSTED", "OVERLOADED", 0.25)
    late = await refused(partial(KINDS[kind], play, "late"))
    assert (late.code, late.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert play.front.in_flight == 0


@each_kind
async def test_defect_is_logged_with_its_stack_and_not_told(
    play: Playing, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    failure = await refused(
        partial(KINDS[kind], play, "defect", metadata=(("x-request-id", "id-1"),))
    )
    assert failure == Failure(
        code="INTERNAL",
        reason="INTERNAL_ERROR",
        domain="trillium",
        message="internal error; the server's log has the details",
        request_id="id-1",
    )
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == len(play.toy.calls)
    record = records[-1]
    assert record.name == "trillium.calls"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == SECRET
    assert play.front.in_flight == 0


@each_kind
async def test_caller_that_withdraws_cancels_the_handler(play: Playing, kind: str) -> None:
    task = asyncio.ensure_future(KINDS[kind](play, "hang"))
    await eventually(play.toy.started.is_set)
    assert play.front.in_flight == 1
    task.cancel()
    await eventually(lambda: play.toy.cancelled == [kind])
    await eventually(lambda: play.front.in_flight == 0)
    if kind in ("Down", "Both"):
        assert play.toy.closed == [kind]


@each_kind
async def test_deadline_reaches_the_handler_and_ends_it(play: Playing, kind: str) -> None:
    before = time.monotonic()
    methods = {"One": play.one, "Down": play.down, "Up": play.up, "Both": play.both}
    request = said("hang")[0] if kind in ("One", "Down") else iter(said("hang"))
    call = methods[kind](request, timeout=0.3)
    assert (await call.code()).name == "DEADLINE_EXCEEDED"
    await eventually(lambda: play.toy.cancelled == [kind])
    (seen,) = play.toy.calls
    assert 0.2 < seen.deadline - before < 5
    await eventually(lambda: play.front.in_flight == 0)


async def test_call_without_a_deadline_has_none(play: Playing) -> None:
    await play.one(*said("x"))
    assert play.toy.calls[0].deadline == math.inf
    assert play.toy.calls[0].remaining_s(time.monotonic()) == math.inf


async def test_caller_that_does_not_read_and_leaves_closes_the_handler(play: Playing) -> None:
    call = play.down(*said("flood"), timeout=30)
    await eventually(play.toy.started.is_set)
    call.cancel()
    await eventually(lambda: play.toy.closed == ["Down"])
    await eventually(lambda: play.front.in_flight == 0)


@each_kind
async def test_request_id_is_kept_and_known_to_all_that_the_handler_does(
    play: Playing, kind: str
) -> None:
    assert await KINDS[kind](play, "id", metadata=(("x-request-id", "Lily 7/a"),)) == "Lily 7/a"
    assert play.toy.calls[0].traced


@each_kind
async def test_request_id_is_made_up_when_there_is_none(play: Playing, kind: str) -> None:
    first, second = await KINDS[kind](play, "id"), await KINDS[kind](play, "id")
    assert first
    assert second
    assert first != second
    assert not play.toy.calls[0].traced


@pytest.mark.parametrize("hostile", ["", "x" * 129, "x" * 4000])
async def test_hostile_request_id_is_replaced(play: Playing, hostile: str) -> None:
    kept = await ask_one(play, "id", metadata=(("x-request-id", hostile),))
    assert kept
    assert kept != hostile
    assert len(kept) <= 128
    assert not play.toy.calls[0].traced


async def test_calls_are_logged_when_they_fail_or_their_caller_chose_the_id(
    play: Playing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await ask_one(play, "quiet")
    assert not caplog.records
    await ask_one(play, "told", metadata=(("x-request-id", "id-1"),))
    await failed(ask_one(play, "wrong"))
    told = [(record.levelname, vars(record)["outcome"]) for record in caplog.records]
    assert told == [("INFO", "OK"), ("INFO", "INVALID_ARGUMENT/INVALID_REQUEST: value: is wrong")]
    assert all(vars(record)["method"] == f"/{NAME}/One" for record in caplog.records)


@each_kind
async def test_message_that_is_too_large_is_told_by_its_field(kind: str) -> None:
    async with playing(Limits(max_message_bytes=100)) as play:
        failure = await refused(partial(KINDS[kind], play, "x" * 101))
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert failure.fields == {"message": "has 103 bytes; at most 100 allowed"}
        assert await KINDS[kind](play, "x" * 98) == "X" * 98
        assert play.front.in_flight == 0


async def test_calls_beyond_the_limit_are_turned_away() -> None:
    async with playing(Limits(max_concurrent_calls=1)) as play:
        hanging = play.one(*said("hang"), timeout=30)
        await eventually(play.toy.started.is_set)
        assert (await failed(ask_one(play, "x"))).code == "RESOURCE_EXHAUSTED"
        hanging.cancel()
        await eventually(lambda: play.front.in_flight == 0)


async def test_port_in_use_is_told() -> None:
    async with playing() as play:
        address = play.front.addresses[0]
        second = AioFront((Toy().service(),), ("127.0.0.1:0", address), Limits())
        with pytest.raises(AddressInUse, match=f"cannot listen on {address}: it is in use"):
            await second.start()
        assert await ask_one(play, "still here") == "STILL HERE"


async def test_unix_socket_is_listened_on(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/toy.sock"
    front = AioFront((Toy().service(),), (address, "127.0.0.1:0"), Limits())
    await front.start()
    assert front.addresses[0] == address
    for each in front.addresses:
        async with aio.insecure_channel(each) as channel:
            one: Any = channel.unary_unary(f"/{NAME}/One")
            raw = await one(StringValue(value="a").SerializeToString(), timeout=10)
            assert StringValue.FromString(raw).value == "A"
    await front.stop(0)


async def test_stop_waits_for_calls_and_cancels_those_that_do_not_end(play: Playing) -> None:
    call = play.one(*said("hang"), timeout=30)
    await eventually(play.toy.started.is_set)
    await play.front.stop(0.05)
    assert play.toy.cancelled == ["One"]
    assert play.front.in_flight == 0
    assert (await call.code()).name in ("UNAVAILABLE", "CANCELLED")
