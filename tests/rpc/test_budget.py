"""A server holds a bounded number of bytes of requests, and one connection a bounded number of
calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.rpc.errors import failed
from tests.rpc.toy import CALL_S, NAME, Playing, Toy, playing, toy_door
from tests.waiting import eventually
from trillium.errors import Overloaded
from trillium.rpc import budget, front
from trillium.rpc.budget import Budget, StreamShare
from trillium.rpc.front import Front
from trillium.rpc.health import Health
from trillium.rpc.methods import Limits

LIMITS = Limits(max_message_bytes=10_000, max_bytes_in_flight=1000)


def said(word: str) -> StringValue:
    return StringValue(value=word)


def hanging(play: Playing, size: int) -> Any:
    """A call that holds about `size` bytes until it is cancelled."""
    return play.one(said("hang" + " " * size), timeout=CALL_S)


async def test_requests_beyond_the_bytes_in_flight_are_turned_away() -> None:
    async with playing(LIMITS) as play:
        held = hanging(play, 800)
        await eventually(play.toy.started.is_set)
        refused = await failed(play.one(said("x" * 500), timeout=CALL_S))
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert "at most 1000 may be, and this one has 503" in refused.message
        assert (await play.one(said("x" * 50), timeout=CALL_S)).value == "X" * 50
        held.cancel()

        async def is_answered() -> bool:
            try:
                return len((await play.one(said("x" * 500), timeout=CALL_S)).value) == 500
            except aio.AioRpcError:
                return False

        await eventually(is_answered)


async def test_one_request_may_be_larger_than_the_bytes_in_flight() -> None:
    async with playing(LIMITS) as play:
        assert len((await play.one(said("x" * 5000), timeout=CALL_S)).value) == 5000
        assert len((await play.one(said("x" * 5000), timeout=CALL_S)).value) == 5000


@pytest.fixture
def all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SMALL_BYTES", 100)


async def test_messages_without_a_response_do_not_use_up_a_stream() -> None:
    # As the withdrawals that an aggregator sends on a stream that is open for days.
    bounded = Budget(2**20)
    share = StreamShare(bounded)
    for _ in range(2**20):
        await share.take(6)
    for _ in range(100):
        await share.take(2**19)
        share.give_back_oldest()
    assert bounded.held_bytes == 0


@pytest.mark.usefixtures("all_count")
async def test_a_stream_of_many_bytes_goes_through_a_small_budget() -> None:
    async with playing(LIMITS) as play:
        call = play.both((said("x" * 400) for _ in range(50)), timeout=CALL_S)
        assert [len(answer.value) async for answer in call] == [400] * 50
        assert (await play.up((said("x" * 400) for _ in range(50)), timeout=CALL_S)).value
        # All of it was given back.
        assert len((await play.one(said("x" * 900), timeout=CALL_S)).value) == 900


@pytest.mark.usefixtures("all_count")
async def test_streams_leave_room_for_calls() -> None:
    bounded = Budget(1000)
    first, second = StreamShare(bounded), StreamShare(bounded)
    await first.take(400)
    waiting = asyncio.create_task(second.take(400))
    await asyncio.sleep(0)
    assert not waiting.done()
    bounded.take(500)
    with pytest.raises(Overloaded):
        bounded.take(500)
    bounded.give_back(500)
    first.give_back_oldest()
    await waiting
    first.close()
    second.close()
    assert bounded.held_bytes == 0


@pytest.mark.usefixtures("all_count")
async def test_a_stream_that_begins_waits_for_calls_in_flight() -> None:
    bounded = Budget(1000)
    bounded.take(900)
    share = StreamShare(bounded)
    waiting = asyncio.create_task(share.take(400))
    await asyncio.sleep(0)
    assert not waiting.done()
    bounded.give_back(900)
    await waiting
    share.close()
    assert bounded.held_bytes == 0


async def test_one_connection_locks_no_other_out() -> None:
    async with playing(Limits(max_calls_of_connection=4)) as play:
        calls = [hanging(play, 1) for _ in range(20)]
        await eventually(lambda: play.front.in_flight == 4)
        async with aio.insecure_channel(
            play.front.addresses[0], options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            one: Any = channel.unary_unary(f"/{NAME}/One")
            raw = await one(said("a").SerializeToString(), timeout=CALL_S)
            assert StringValue.FromString(raw).value == "A"
        for call in calls:
            call.cancel()


async def test_health_has_room_when_nothing_else_has() -> None:
    toy, health = Toy(), Health(())
    health.set_serving(True)
    limits = Limits(max_concurrent_calls=2)
    serving = Front((toy.service(), health.service()), ("127.0.0.1:0",), limits, door=toy_door())
    await serving.start()
    try:
        async with aio.insecure_channel(serving.addresses[0]) as channel:
            one: Any = channel.unary_unary(f"/{NAME}/One")
            raw = said("hang").SerializeToString()
            calls = [one(raw, timeout=CALL_S) for _ in range(2)]
            await eventually(lambda: serving.in_flight == 2)
            assert (await failed(one(raw, timeout=CALL_S))).code == "RESOURCE_EXHAUSTED"
            stub = HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            for call in calls:
                call.cancel()
    finally:
        await serving.stop(0)


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HANDSHAKE_MS", 200)
    async with playing() as play:
        host, _, port = play.front.addresses[0].rpartition(":")
        for beginning in (b"", b"PRI * HTTP"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(beginning)
            async with asyncio.timeout(40):
                while await reader.read(1000):
                    pass
            writer.close()
            await writer.wait_closed()
