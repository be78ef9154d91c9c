"""Callers that do not wait for their answer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from starlette.responses import Response

from gateway.callers import Callers
from gateway.config import GatewayConfig
from gateway.edge import Edge, Served
from gateway.hosts import Hosts
from gateway.leaving import unless_gone
from gateway.operation import HttpRequest, Operation
from gateway.reading import Reader
from gateway.routing import Routes
from tests.aggregator.fakes import FakePredictor, hangs
from tests.gateway.serving import gateway_before_fake
from tests.waiting import eventually
from trillium.errors import Cancelled


async def test_a_prediction_that_nobody_waits_for_is_withdrawn_from_its_predictor() -> None:
    fake = FakePredictor("a", script=[hangs])
    async with gateway_before_fake(fake) as call:
        body = {"instances": [[0.5, 0.25, 0.125]]}
        headers = {"request-timeout": "80"}
        asking = asyncio.create_task(call.post("/v1/ensembles/fake:predict", body, headers=headers))
        await eventually(lambda: len(fake.requests) == 1)
        asking.cancel()
        await eventually(lambda: len(fake.withdrawn) == 1)


class Handler:
    """Returns once it may, and records how it ended."""

    def __init__(self) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, asked: HttpRequest) -> Response:
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return Response(b"done")


async def served(handler: Handler, *, changes: bool) -> list[Any]:
    """What is sent to a caller who leaves as soon as the handler has begun."""
    operation = Operation("POST", "/x", "", "", handler, (), changes=changes)
    callers = Callers()
    callers.opened("unix:/gateway")
    routes = Routes((operation,), Reader(GatewayConfig(), callers))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "headers": [],
        "query_string": b"",
    }
    sent: list[Any] = []
    messages = [{"type": "http.request"}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await handler.began.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await routes(scope, receive, send, Served("POST", "/x", "id", traced=False))
    return sent


async def test_what_only_tells_something_is_cancelled() -> None:
    handler = Handler()
    async with asyncio.timeout(60):
        with pytest.raises(Cancelled, match="closed the connection before there was an answer"):
            await served(handler, changes=False)
    assert handler.was_cancelled


async def test_what_changes_something_is_carried_out() -> None:
    handler = Handler()
    serving = asyncio.create_task(served(handler, changes=True))
    async with asyncio.timeout(60):
        await handler.began.wait()
        handler.may_end.set()
        assert (await serving)[0]["type"] == "http.response.start"
    assert not handler.was_cancelled


async def test_a_failure_is_the_handlers_own() -> None:
    class Failing(Handler):
        async def __call__(self, asked: HttpRequest) -> Response:
            raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await served(Failing(), changes=False)


async def never() -> Any:
    await asyncio.Event().wait()


async def test_an_error_leaves_nothing_of_its_request() -> None:
    seen: list[weakref.ref[Cancelled]] = []

    async def fails() -> None:
        error = Cancelled("enough")
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def inner(scope: Any, receive: Any, send: Any, served: Served) -> None:
        await unless_gone(fails(), receive)

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    gc.collect()
    gc.disable()
    try:
        await Edge(inner, hosts=Hosts("127.0.0.1:9000"), max_requests=1)(scope, never, send)
        await eventually(lambda: seen[0]() is None)
    finally:
        gc.enable()
