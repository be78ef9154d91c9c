"""Where servers are made: a front carries bytes between callers and endpoints.

`AioFront` is the default, `trillium.rpc.h2corn_front` has a faster one that must be asked for. TLS
and authentication belong into fronts and into `trillium.rpc.channels`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, Protocol

import grpc

from trillium.rpc.accepting import new_server
from trillium.rpc.call import Call, CallFailed, open_call
from trillium.rpc.listening import AddressInUse
from trillium.rpc.methods import Endpoints, Kind, Limits, Method, Service
from trillium.rpc.reflection import reflection_service
from trillium.rpc.status import DETAILS_KEY

log = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_NO_DEADLINE_S = 1e8
"""grpc tells of calls without a deadline as if they had years."""


class Front(Protocol):
    """A server's way to its callers."""

    async def start(self) -> None:
        """Listen. Raises AddressInUse."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight `grace_s` seconds, then cancel them."""
        ...

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, with the ports that were really taken."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls that handlers are working on."""
        ...


def front_on(
    server: str,
    services: Sequence[Service],
    listen: Sequence[str],
    limits: Limits,
    *,
    shares_port: bool = False,
    drain_s: float = 10.0,
) -> Front:
    """A front on the server of that name: `grpc` or `h2corn`, which is a package of its own.

    `drain_s` is the longest grace that its `stop` will be given.
    """
    if server == "h2corn":
        from trillium.rpc.h2corn_front import H2cornFront

        return H2cornFront(services, listen, limits, shares_port=shares_port, drain_s=drain_s)
    return AioFront(services, listen, limits, shares_port=shares_port)


class AioFront:
    """A front on grpc.aio's server. Speaks plaintext."""

    def __init__(
        self,
        services: Sequence[Service],
        listen: Sequence[str],
        limits: Limits,
        *,
        shares_port: bool = False,
    ) -> None:
        """`listen` holds addresses such as `127.0.0.1:50051` (port 0: any) or `unix:/path`. With
        `shares_port` other processes of this user may listen there, too."""
        self._listen = tuple(listen)
        self._endpoints = Endpoints(limits)
        self._addresses: list[str] = []
        handlers = {
            service.name: {
                method.name: self._handler(service, method) for method in service.methods
            }
            for service in (*services, reflection_service(services))
        }
        options = _server_options(limits, shares_port)
        self._server = new_server(handlers, options, limits.max_concurrent_calls)

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens; empty before `start`."""
        return tuple(self._addresses)

    @property
    def in_flight(self) -> int:
        """Calls that handlers are working on."""
        return self._endpoints.in_flight

    async def start(self) -> None:
        """Listen. Raises AddressInUse, and then listens nowhere."""
        for address in self._listen:
            try:
                port = self._server.add_insecure_port(address)
            except RuntimeError as error:
                await self._server.stop(None)
                text = f"cannot listen on {address}: it is in use or not an address of this machine"
                raise AddressInUse(text) from error
            is_path = address.startswith("unix:")
            self._addresses.append(address if is_path else f"{address.rpartition(':')[0]}:{port}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight `grace_s` seconds, then cancel them.

        grpc.aio's own stop returns without waiting for the handlers that it cancelled, so this
        waits, for at most one second more, until none runs any longer.
        """
        await self._server.stop(grace_s)
        try:
            await asyncio.wait_for(self._endpoints.until_idle(), 1.0)
        except TimeoutError:
            log.warning("stopped with calls in flight", extra={"count": self.in_flight})

    def _handler(self, service: Service, method: Method) -> Any:
        path = f"/{service.name}/{method.name}"
        endpoint = self._endpoints.of(method)
        match method.kind:
            case Kind.UNARY_UNARY | Kind.STREAM_UNARY:

                async def single(request: Any, context: Any) -> bytes:
                    try:
                        response: bytes = await endpoint(request, _call(path, context))
                        return response
                    except CallFailed as failed:
                        await _abort(context, failed)

                make = (
                    grpc.unary_unary_rpc_method_handler
                    if method.kind is Kind.UNARY_UNARY
                    else grpc.stream_unary_rpc_method_handler
                )
                return make(single)
            case _:

                async def several(request: Any, context: Any) -> AsyncGenerator[bytes]:
                    try:
                        async with aclosing(endpoint(request, _call(path, context))) as responses:
                            async for response in responses:
                                yield response
                    except CallFailed as failed:
                        await _abort(context, failed)

                make = (
                    grpc.unary_stream_rpc_method_handler
                    if method.kind is Kind.UNARY_STREAM
                    else grpc.stream_stream_rpc_method_handler
                )
                return make(several)


def _server_options(limits: Limits, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes * limits.HARD_FACTOR),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port share its calls: nothing that should happen in silence.
        ("grpc.so_reuseport", int(shares_port)),
        # Our channels ping every two seconds (see channels.py); that is no attack.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _call(path: str, context: Any) -> Call:
    remaining = context.time_remaining()
    endless = remaining is None or remaining > _NO_DEADLINE_S
    deadline = math.inf if endless else time.monotonic() + remaining
    return open_call(path, _text_metadata(context.invocation_metadata()), deadline, context.peer())


def _text_metadata(metadata: Any) -> Mapping[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


async def _abort(context: Any, failed: CallFailed) -> NoReturn:
    status = failed.status
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, details)
    raise AssertionError("abort always raises")
