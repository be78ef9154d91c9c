"""An asyncio client may be made anywhere, and says why it cannot be used in two loops at once."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from trillium import AsyncClient, AsyncControllerClient, Client, ControllerClient

ADDRESS = "127.0.0.1:1"
CLIENTS: list[Callable[[str], Any]] = [AsyncClient, AsyncControllerClient]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server that answers health checks."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(10)


@pytest.mark.parametrize("make", CLIENTS)
def test_client_made_before_a_loop_serves_one_after_the_other(
    make: Callable[[str], Any], address: str
) -> None:
    client = make(address)

    async def ask() -> bool:
        return bool(await client.is_serving())

    async def ask_and_close() -> bool:
        async with client:
            return await ask()

    assert [asyncio.run(each()) for each in (ask, ask, ask_and_close, ask_and_close)] == [True] * 4


@pytest.mark.parametrize("make", CLIENTS)
def test_client_in_a_second_loop_says_what_to_do(make: Callable[[str], Any], address: str) -> None:
    client = make(address)
    in_use, tried = threading.Event(), threading.Event()

    async def use() -> None:
        await client.is_serving()
        in_use.set()
        await asyncio.to_thread(tried.wait, 30)
        await client.close()

    first = threading.Thread(target=asyncio.run, args=(use(),))
    first.start()
    try:
        assert in_use.wait(30)
        with pytest.raises(RuntimeError, match=f"{make.__name__} is in use in another event loop"):
            asyncio.run(client.is_serving())
    finally:
        tried.set()
        first.join(30)


def test_client_without_a_loop_says_what_to_do() -> None:
    coroutine = AsyncClient(ADDRESS).is_serving()
    with pytest.raises(RuntimeError, match="AsyncClient is called where no event loop runs"):
        coroutine.send(None)


@pytest.mark.parametrize("make", [*CLIENTS, Client, ControllerClient])
def test_client_that_is_pickled_says_what_to_do(make: Callable[[str], Any]) -> None:
    with pytest.raises(TypeError, match=f"pass its address, and make a {make.__name__}"):
        pickle.dumps(make(ADDRESS))
