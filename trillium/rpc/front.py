"""Where servers are made: the front carries bytes between callers and endpoints.

TLS belongs here and into `trillium.rpc.channels`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from trillium.access.door import Door
from trillium.rpc.accepting import new_server
from trillium.rpc.call import Call, CallFailed, open_call
from trillium.rpc.methods import Endpoints, Limits, MethodKind, RpcMethod, Service
from trillium.rpc.reflection import reflection_service
from trillium.rpc.status import DETAILS_KEY
from trillium.server.figures import Family
from trillium.server.tls import Certificate

log = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}
HANDSHAKE_MS = 10_000
_NO_DEADLINE_S = 1e8
"""grpc reports a call without a deadline as one that has years left."""


class AddressInUse(Exception):
    """Another program listens there, or the address is none of this machine's."""


class Front:
    """A server on grpc.aio's."""

    def __init__(
        self,
        services: Sequence[Service],
        listen: Sequence[str],
        limits: Limits,
        *,
        door: Door,
        certificate: Certificate | None = None,
        shares_port: bool = False,
    ) -> None:
        """`listen` holds addresses such as `127.0.0.1:50051` (port 0: any) or `unix:/path`; `door`
        decides who may call what; with a `certificate`, TCP ports speak TLS. With `shares_port`
        other processes of this user may listen there, too."""
        self._listen = tuple(listen)
        self._door = door
        self._certificate = certificate
        self._endpoints = Endpoints(limits, door)
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

    def figures(self) -> Iterable[Family]:
        """What was counted of its calls so far."""
        return self._endpoints.figures()

    async def start(self) -> None:
        """Listen. Raises AddressInUse, and then listens nowhere."""
        for address in self._listen:
            try:
                port = self._listen_on(address)
            except RuntimeError as error:
                await self._server.stop(None)
                text = f"cannot listen on {address}: it is in use or not an address of this machine"
                raise AddressInUse(text) from error
            is_path = address.startswith("unix:")
            self._addresses.append(address if is_path else f"{address.rpartition(':')[0]}:{port}")
        self._door.opened(self._addresses)
        await self._server.start()

    def _listen_on(self, address: str) -> int:
        """Answers the port. A Unix socket is its owner's alone, and needs no TLS. Raises
        RuntimeError."""
        if self._certificate is None or address.startswith("unix:"):
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, _credentials(self._certificate))

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

    def _handler(self, service: Service, method: RpcMethod) -> Any:
        path = f"/{service.name}/{method.name}"
        endpoint = self._endpoints.of(method)
        match method.kind:
            case MethodKind.UNARY_UNARY | MethodKind.STREAM_UNARY:

                async def single(request: Any, context: Any) -> bytes:
                    try:
                        response: bytes = await endpoint(request, _call(path, context))
                        return response
                    except CallFailed as failed:
                        await _abort(context, failed)

                make = (
                    grpc.unary_unary_rpc_method_handler
                    if method.kind is MethodKind.UNARY_UNARY
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
                    if method.kind is MethodKind.UNARY_STREAM
                    else grpc.stream_stream_rpc_method_handler
                )
                return make(several)


def _credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Credentials that follow the files of a certificate.

    gRPC asks for them at each handshake, in threads of its own. It must get None unless they are
    others: processes crashed that made them anew each time (grpcio 1.85.1).
    """

    def made() -> Any:
        shown = certificate.shown
        return grpc.ssl_server_certificate_configuration([(shown.key, shown.certificate)])

    def renewed() -> Any:
        try:
            return made() if certificate.renewed() else None
        except Exception:
            # In a thread of gRPC's, which would drop it; the certificate stays as it is.
            log.exception("the certificate could not be read again")
            return None

    return grpc.dynamic_ssl_server_credentials(made(), renewed, require_client_authentication=False)


def _server_options(limits: Limits, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", int(limits.max_message_bytes * limits.HARD_FACTOR)),
        ("grpc.max_send_message_length", -1),
        # What one connection asks for beyond this waits at the caller's: it locks nobody else out.
        ("grpc.max_concurrent_streams", limits.max_calls_of_connection),
        # Two servers on one port share its calls: nothing that should happen in silence.
        ("grpc.so_reuseport", int(shares_port)),
        # A connection that does not even begin to speak HTTP/2; the default is 120 seconds.
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
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
