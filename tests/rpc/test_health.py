"""Health is true at every moment, for everybody who asks and everybody who watches."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.errors import failed
from tests.rpc.toy import CALL_S
from trillium.access.door import Door
from trillium.rpc.call import open_call
from trillium.rpc.front import Front
from trillium.rpc.health import SERVICE_NAME, Health
from trillium.rpc.methods import Limits

A, B = "toy.v1.A", "toy.v1.B"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Asked:
    """A server's health, and a caller that asks for it."""

    def __init__(self, health: Health, channel: aio.Channel) -> None:
        self.health = health
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    async def check(self, service: str = "") -> Any:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self._stub.Check(request, timeout=CALL_S)).status

    def watch(self, service: str = "") -> Any:
        return self._stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=2 * CALL_S)


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    health = Health((A, B))
    front = Front((health.service(),), ("127.0.0.1:0",), Limits(), door=Door())
    await front.start()
    async with aio.insecure_channel(front.addresses[0]) as channel:
        yield Asked(health, channel)
    await front.stop(0)
    assert front.in_flight == 0


async def told(watch: Any) -> Any:
    answer = await watch.read()
    return answer if answer is aio.EOF else answer.status


async def test_nothing_serves_until_it_is_said(asked: Asked) -> None:
    for service in ("", A, B):
        assert await asked.check(service) == NOT_SERVING
        assert not asked.health.is_serving(service)
    assert await asked.check(SERVICE_NAME) == SERVING


async def test_each_service_is_told_apart(asked: Asked) -> None:
    asked.health.set_serving(True, A)
    assert [await asked.check(service) for service in ("", A, B)] == [
        NOT_SERVING,
        SERVING,
        NOT_SERVING,
    ]
    asked.health.set_serving(True)
    assert [await asked.check(service) for service in ("", A, B)] == [SERVING] * 3


async def test_unknown_service_is_not_found_and_the_known_ones_are_told(asked: Asked) -> None:
    failure = await failed(asked.check("toy.v1.C"))
    assert failure.code == "NOT_FOUND"
    assert A in failure.message
    assert B in failure.message
    with pytest.raises(KeyError):
        asked.health.is_serving("toy.v1.C")


@pytest.mark.parametrize("name", ["x" * 1_000_000, "\U0001f33c" * 10_000])
async def test_immense_name_is_answered_in_a_trailer_that_arrives(asked: Asked, name: str) -> None:
    assert (await failed(asked.check(name))).code == "NOT_FOUND"


async def test_watcher_is_told_every_change_and_nothing_else(asked: Asked) -> None:
    watch = asked.watch(A)
    assert await told(watch) == NOT_SERVING
    asked.health.set_serving(True, B)
    asked.health.set_serving(True, A)
    assert await told(watch) == SERVING
    asked.health.set_serving(True, A)
    asked.health.set_serving(False)
    assert await told(watch) == NOT_SERVING
    watch.cancel()


async def test_watcher_of_an_unknown_service_is_kept(asked: Asked) -> None:
    watch = asked.watch("toy.v1.C")
    assert await told(watch) == UNKNOWN
    asked.health.end()
    assert await told(watch) is aio.EOF


@pytest.mark.parametrize("service", ["", A, B])
async def test_one_watcher_leaves_and_the_other_is_still_told(asked: Asked, service: str) -> None:
    first, second = asked.watch(service), asked.watch(service)
    assert [await told(first), await told(second)] == [NOT_SERVING, NOT_SERVING]
    first.cancel()
    for serving, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
        asked.health.set_serving(serving)
        assert await told(second) == status
    second.cancel()


async def test_watcher_that_does_not_read_holds_nobody_up(asked: Asked) -> None:
    lazy, keen = asked.watch(), asked.watch()
    await told(keen)
    for _ in range(1000):
        asked.health.set_serving(True)
        assert await told(keen) == SERVING
        asked.health.set_serving(False)
        assert await told(keen) == NOT_SERVING
    lazy.cancel()
    keen.cancel()


async def test_end_is_told_is_the_end_of_watching_and_is_final(asked: Asked) -> None:
    asked.health.set_serving(True)
    watches = [asked.watch(service) for service in ("", A, SERVICE_NAME)]
    for watch in watches:
        assert await told(watch) == SERVING
    asked.health.end()
    for watch in watches:
        assert await told(watch) == NOT_SERVING
        assert await told(watch) is aio.EOF
        assert (await watch.code()).name == "OK"
    asked.health.set_serving(True)
    assert await asked.check() == NOT_SERVING
    late = asked.watch(A)
    assert await told(late) == NOT_SERVING
    assert await told(late) is aio.EOF


async def test_change_while_the_last_one_is_being_sent_is_told_even_at_the_end() -> None:
    health = Health((A,))
    health.set_serving(True)
    (method,) = (each for each in health.service().methods if each.name == "Watch")
    call = open_call("/grpc.health.v1.Health/Watch", {}, math.inf, "")
    watch = method.handler(health_pb2.HealthCheckRequest(service=A), call)
    assert (await anext(watch)).status == SERVING
    health.end()  # The generator is still where it gave the first answer away.
    assert (await anext(watch)).status == NOT_SERVING
    assert await anext(watch, None) is None
