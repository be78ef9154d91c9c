"""All four kinds of RPC through the one wrapper round handlers: what every front holds."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from tests.rpc.errors import Failure, failed, refused
from tests.rpc.toy import CALL_S, NAME, SECRET, Playing, Toy, playing, toy_door
from tests.waiting import eventually
from trillium.rpc import accepting
from trillium.rpc.front import AddressInUse, Front
from trillium.rpc.methods import Limits


@pytest.fixture(autouse=True, params=["many accepts", "one by one"])
def accepts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio's server with and without the private names of grpcio."""
    if request.param == "one by one":
        monkeypatch.setitem(accepting.PRIVATE_NAMES, "AioServer.gone", ())


@pytest.fixture
async def play() -> AsyncIterator[Playing]:
    async with playing() as play:
        yield play


def said(*words: str) -> list[StringValue]:
    return [StringValue(value=word) for word in words]


async def ask_one(play: Playing, word: str, **options: Any) -> Any:
    return (await play.one(*said(word), timeout=CALL_S, **options)).value


async def ask_down(play: Playing, word: str, **options: Any) -> Any:
    return (await all_of(play.down(*said(word), timeout=CALL_S, **options)))[1]


async def all_of(call: Any) -> list[Any]:
    """The values of all answers. grpc.aio does not end a call whose reader is cancelled just as the
    request has been sent."""
    try:
        return [each.value async for each in call]
    finally:
        call.cancel()


async def ask_up(play: Playing, word: str, **options: Any) -> Any:
    return (await play.up(iter(said(word)), timeout=CALL_S, **options)).value


async def ask_both(play: Playing, word: str, **options: Any) -> Any:
    (answer,) = await all_of(play.both(iter(said(word)), timeout=CALL_S, **options))
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
    await eventually(lambda: play.front.in_flight == 0)


@each_kind
async def test_message_of_any_letters_arrives(play: Playing, kind: str) -> None:
    failure = await failed(KINDS[kind](play, "odd"))
    assert failure.message == "value: is 50 % \u00fc\n"


@each_kind
@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(play: Playing, kind: str, how: Any) -> None:
    assert await KINDS[kind](play, "x" * 1000, compression=how) == "X" * 1000


async def test_unknown_method_is_unimplemented(play: Playing) -> None:
    async with aio.insecure_channel(play.front.addresses[0]) as channel:
        for path in (f"/{NAME}/Two", "/toy.v1.Nobody/One"):
            unknown: Any = channel.unary_unary(path)
            assert (await failed(unknown(b"", timeout=CALL_S))).code == "UNIMPLEMENTED"


async def test_binary_metadata_does_no_harm(play: Playing) -> None:
    metadata = (("some-bin", bytes(range(256))), ("some", "text"), ("some", "more"))
    assert await ask_one(play, "a", metadata=metadata) == "A"


async def test_synchronous_callers_are_served(play: Playing) -> None:
    def ask() -> list[bytes]:
        with grpc.insecure_channel(play.front.addresses[0]) as channel:
            both: Any = channel.stream_stream(f"/{NAME}/Both")
            words = [StringValue(value=str(number)) for number in range(100)]
            return list(both((word.SerializeToString() for word in words), timeout=CALL_S))

    answers = await asyncio.to_thread(ask)
    assert [StringValue.FromString(raw).value for raw in answers] == [*map(str, range(100))]


@each_kind
async def test_message_of_many_frames_arrives_whole(kind: str) -> None:
    async with playing() as play:
        word = "abcdefghij" * 300_000
        assert await KINDS[kind](play, word) == word.upper()


@each_kind
async def test_message_beyond_all_limits_is_refused(kind: str) -> None:
    async with playing(Limits(max_message_bytes=1000)) as play:
        failure = await refused(lambda: KINDS[kind](play, "x" * 5000))
        assert failure.code == "RESOURCE_EXHAUSTED"
        await eventually(lambda: play.front.in_flight == 0)


async def test_answers_that_nobody_reads_hold_the_handler_back(play: Playing) -> None:
    call = play.down(*said("flood"), timeout=60)
    await held_back(play)
    assert play.toy.flooded_bytes < 32 * 1024 * 1024
    call.cancel()
    await eventually(lambda: play.toy.closed == ["Down"])


async def test_answers_that_nobody_reads_hold_up_no_other_call(play: Playing) -> None:
    call = play.down(*said("flood"), timeout=60)
    await held_back(play)
    for _ in range(3):
        answer = await play.one(*said("x"), timeout=CALL_S)
        assert answer.value == "X"
    call.cancel()


async def held_back(play: Playing) -> None:
    """Returns once a flood that nobody reads has filled all queues and stands still."""
    looks: list[int] = []

    async def stands_still() -> bool:
        looks.append(play.toy.flooded_bytes)
        await connected_apart(play, "x")
        # Several looks: a busy machine holds a flood up for a moment, too.
        return len(looks) > 3 and looks[-1] == looks[-4] > 0

    await eventually(stands_still)


async def connected_apart(play: Playing, word: str) -> str:
    """What One answers on a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with aio.insecure_channel(play.front.addresses[0], options=options) as channel:
        one: Any = channel.unary_unary(f"/{NAME}/One")
        raw = await one(StringValue(value=word).SerializeToString(), timeout=CALL_S)
        return StringValue.FromString(raw).value


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
    await eventually(lambda: play.front.in_flight == 0)


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
    methods = {"One": play.one, "Down": play.down, "Up": play.up, "Both": play.both}
    before = 0.0
    # On a busy machine a call may end before its handler has begun.
    while not play.toy.started.is_set():
        before = time.monotonic()
        request = said("hang")[0] if kind in ("One", "Down") else iter(said("hang"))
        call = methods[kind](request, timeout=0.3)
        assert (await call.code()).name == "DEADLINE_EXCEEDED"
    await eventually(lambda: play.toy.cancelled == [kind])
    assert 0.2 < play.toy.calls[-1].deadline - before < 5
    await eventually(lambda: play.front.in_flight == 0)


async def test_call_without_a_deadline_has_none(play: Playing) -> None:
    await play.one(*said("x"))
    assert play.toy.calls[0].deadline == math.inf
    assert play.toy.calls[0].remaining_s(time.monotonic()) == math.inf


async def test_caller_that_does_not_read_and_leaves_closes_the_handler(play: Playing) -> None:
    call = play.down(*said("flood"), timeout=CALL_S)
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
        await eventually(lambda: play.front.in_flight == 0)


async def test_calls_beyond_the_limit_are_turned_away() -> None:
    async with playing(Limits(max_concurrent_calls=1)) as play:
        hanging = play.one(*said("hang"), timeout=CALL_S)
        await eventually(play.toy.started.is_set)
        assert (await failed(ask_one(play, "x"))).code == "RESOURCE_EXHAUSTED"
        hanging.cancel()
        await eventually(lambda: play.front.in_flight == 0)


async def test_calls_of_all_kinds_share_one_limit_and_refused_ones_leave_no_trace() -> None:
    async with playing(Limits(max_concurrent_calls=2)) as play:
        hanging = [play.one(*said("hang"), timeout=CALL_S)]
        await eventually(lambda: play.front.in_flight == 1)
        hanging.append(play.both(iter(said("hang")), timeout=CALL_S))
        await eventually(lambda: play.front.in_flight == 2)
        for ask in KINDS.values():
            refusals = await asyncio.gather(*(refused(partial(ask, play, "x")) for _ in range(20)))
            assert {each.code for each in refusals} == {"RESOURCE_EXHAUSTED"}
        hanging[0].cancel()
        await eventually(lambda: is_answered(play))
        hanging[1].cancel()


async def is_answered(play: Playing) -> bool:
    return (await play.one(*said("x"), timeout=CALL_S).code()) is grpc.StatusCode.OK


async def test_port_in_use_is_told() -> None:
    async with playing() as play:
        address = play.front.addresses[0]
        second = Front((Toy().service(),), ("127.0.0.1:0", address), Limits(), door=toy_door())
        with pytest.raises(AddressInUse, match=f"cannot listen on {address}: it is in use"):
            await second.start()
        assert await ask_one(play, "still here") == "STILL HERE"


async def test_unix_socket_is_listened_on(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/toy.sock"
    front = Front((Toy().service(),), (address, "127.0.0.1:0"), Limits(), door=toy_door())
    await front.start()
    assert front.addresses[0] == address
    for each in front.addresses:
        async with aio.insecure_channel(each) as channel:
            one: Any = channel.unary_unary(f"/{NAME}/One")
            raw = await one(StringValue(value="a").SerializeToString(), timeout=CALL_S)
            assert StringValue.FromString(raw).value == "A"
    await front.stop(0)


async def test_stop_turns_new_callers_away_while_it_waits(play: Playing) -> None:
    call = play.one(*said("hang"), timeout=CALL_S)
    await eventually(play.toy.started.is_set)
    stop = asyncio.ensure_future(play.front.stop(CALL_S))

    async def turned_away() -> bool:
        async with aio.insecure_channel(play.front.addresses[0]) as channel:
            one: Any = channel.unary_unary(f"/{NAME}/One")
            try:
                await one(b"", timeout=5)
            except aio.AioRpcError as error:
                return error.code().name == "UNAVAILABLE"
            return False

    await eventually(turned_away)
    assert not stop.done()
    call.cancel()
    await asyncio.wait_for(stop, CALL_S)


async def test_call_that_comes_as_a_stop_begins_does_not_outlive_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for turn in range(20):
        async with playing() as play:
            calls = [play.one(*said("hang"), timeout=CALL_S) for _ in range(turn)]
            await ask_one(play, "x")
            await asyncio.wait_for(play.front.stop(0), CALL_S)
            assert play.front.in_flight == 0
            for call in calls:
                call.cancel()
    assert "stopped with calls in flight" not in caplog.text


async def test_stop_waits_for_calls_and_cancels_those_that_do_not_end(play: Playing) -> None:
    call = play.one(*said("hang"), timeout=CALL_S)
    await eventually(play.toy.started.is_set)
    await play.front.stop(0.05)
    assert play.toy.cancelled == ["One"]
    assert play.front.in_flight == 0
    assert (await call.code()).name in ("UNAVAILABLE", "CANCELLED")
