"""A service with one method of each kind of RPC, which misbehaves as its request tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from trillium.access.door import Door
from trillium.access.roles import RULES, Role
from trillium.errors import InvalidRequest, Overloaded
from trillium.rpc.call import Call
from trillium.rpc.front import Front
from trillium.rpc.methods import Limits, MethodKind, RpcMethod, Service
from trillium.server.logs import REQUEST_ID

NAME = "toy.v1.ToyService"
CALL_S = 60.0
"""How long a call may take that is to be answered."""
SECRET = "the password is swordfish"


@dataclass
class Toy:
    """The handlers, and what they saw."""

    calls: list[Call] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    flooded_bytes: int = 0

    def service(self) -> Service:
        return Service(
            NAME,
            (
                RpcMethod("One", MethodKind.UNARY_UNARY, StringValue, self._one),
                RpcMethod("Down", MethodKind.UNARY_STREAM, StringValue, self._down),
                RpcMethod("Up", MethodKind.STREAM_UNARY, StringValue, self._up),
                RpcMethod("Both", MethodKind.STREAM_STREAM, StringValue, self._both),
            ),
        )

    async def _do(self, what: str, method: str) -> StringValue:
        match what.rstrip():
            case "wrong":
                raise InvalidRequest.of("value", "is wrong")
            case "odd":
                raise InvalidRequest.of("value", "is 50 % \u00fc\n")
            case "full":
                raise Overloaded("full", retry_after_s=0.25)
            case "defect":
                raise RuntimeError(SECRET)
            case "late":
                raise TimeoutError
            case "hang":
                self.started.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.append(method)
                    raise
            case "id":
                return StringValue(value=REQUEST_ID.get())
        return StringValue(value=what.upper())

    async def _one(self, request: StringValue, call: Call) -> StringValue:
        self.calls.append(call)
        return await self._do(request.value, "One")

    async def _down(self, request: StringValue, call: Call) -> AsyncGenerator[StringValue]:
        self.calls.append(call)
        try:
            yield StringValue(value="first")
            if request.value == "flood":
                self.started.set()
                while True:
                    self.flooded_bytes += 100_000
                    yield StringValue(value="x" * 100_000)
            yield await self._do(request.value, "Down")
        finally:
            self.closed.append("Down")

    async def _up(self, requests: AsyncIterator[StringValue], call: Call) -> StringValue:
        self.calls.append(call)
        values = [await self._do(request.value, "Up") async for request in requests]
        return StringValue(value=",".join(each.value for each in values))

    async def _both(
        self, requests: AsyncIterator[StringValue], call: Call
    ) -> AsyncGenerator[StringValue]:
        self.calls.append(call)
        try:
            async for request in requests:
                yield await self._do(request.value, "Both")
        finally:
            self.closed.append("Both")


def toy_door() -> Door:
    """A door that lets everybody play."""
    toys = {f"/{NAME}/{method}": Role.NONE for method in ("One", "Down", "Up", "Both")}
    return Door(rules={**RULES, **toys})


@dataclass(frozen=True, slots=True)
class Playing:
    """A server of the toy, and its methods as a caller sees them."""

    toy: Toy
    front: Front
    one: Any
    down: Any
    up: Any
    both: Any


@asynccontextmanager
async def playing(limits: Limits | None = None) -> AsyncIterator[Playing]:
    """A toy behind a front on a free port."""
    toy = Toy()
    front = Front((toy.service(),), ("127.0.0.1:0",), limits or Limits(), door=toy_door())
    await front.start()
    codec = {
        "request_serializer": StringValue.SerializeToString,
        "response_deserializer": StringValue.FromString,
    }
    try:
        async with aio.insecure_channel(front.addresses[0]) as channel:
            make: Any = channel
            yield Playing(
                toy,
                front,
                make.unary_unary(f"/{NAME}/One", **codec),
                make.unary_stream(f"/{NAME}/Down", **codec),
                make.stream_unary(f"/{NAME}/Up", **codec),
                make.stream_stream(f"/{NAME}/Both", **codec),
            )
    finally:
        await front.stop(0)
