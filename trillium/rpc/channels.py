"""Where channels are made: in plaintext or TLS, with the token that all calls carry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from grpc import aio

from trillium.rpc.call import AUTHORIZATION_KEY

_UNLIMITED = -1

_COMMON: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.max_send_message_length", _UNLIMITED),
    # One connection for each channel: no back-off shared with a channel that failed earlier.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_NO_PROXY = ("grpc.enable_http_proxy", 0)
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Where gRPC looks for a proxy, in its order."""

_LINK: tuple[tuple[str, int], ...] = (
    *_COMMON,
    # Despite its name, also how long an attempt to connect may take; the default is 20 seconds.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A host that vanished, or a process that hangs, is noticed within four seconds.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    # Predictors are neighbors; a proxy that the environment names is for the world outside.
    _NO_PROXY,
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a channel gets in: the token that its calls carry, and whom it trusts."""

    token: str = field(default="", repr=False)
    """Empty for none."""
    tls: bool = False
    """Whether it speaks TLS."""
    roots: bytes | None = None
    """Certificates of the authorities to trust, in PEM; None for those that gRPC comes with."""


PLAINTEXT = Access()


def link_channel(address: str, access: Access = PLAINTEXT) -> aio.Channel:
    """A channel between Trillium's own servers: pings an idle peer and reconnects quickly."""
    return _aio_channel(address, access, _LINK)


def client_channel(address: str, access: Access = PLAINTEXT) -> aio.Channel:
    """An asyncio channel of a client of ours."""
    return _aio_channel(address, access, _client_options(address))


def _aio_channel(address: str, access: Access, options: tuple[tuple[str, int], ...]) -> aio.Channel:
    interceptors = _bearers(access.token)
    if not access.tls:
        return aio.insecure_channel(address, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(access.roots)
    return aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


def sync_client_channel(address: str, access: Access = PLAINTEXT) -> Any:
    """A channel of a synchronous client of ours."""
    options = _client_options(address)
    channel: Any
    if access.tls:
        credentials = grpc.ssl_channel_credentials(access.roots)
        channel = grpc.secure_channel(address, credentials, options=options)
    else:
        channel = grpc.insecure_channel(address, options=options)
    token = access.token
    return grpc.intercept_channel(channel, _sync_bearer(token)) if token else channel


def _with_token(details: Any, token: str) -> Any:
    """The details of a call that carries a token besides."""
    more = (*(details.metadata or ()), (AUTHORIZATION_KEY, f"Bearer {token}"))
    return _CallDetails(
        details.method, details.timeout, more, details.credentials, details.wait_for_ready
    )


class _CallDetails(NamedTuple):
    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None


_KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
_METHODS = (
    "intercept_unary_unary",
    "intercept_unary_stream",
    "intercept_stream_unary",
    "intercept_stream_stream",
)


def _sync_bearer(token: str) -> Any:
    """An interceptor that has all calls of a blocking channel carry a token."""

    def go_on(_: Any, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(_with_token(details, token), requests)

    kinds = tuple(getattr(grpc, f"{kind}ClientInterceptor") for kind in _KINDS)
    return type("Bearer", kinds, dict.fromkeys(_METHODS, go_on))()


def _bearers(token: str) -> list[Any] | None:
    """The same for an asyncio channel: one for each kind of call, since grpc.aio takes each for one
    kind only."""
    if not token:
        return None

    async def go_on(_: Any, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(_with_token(details, token), requests)

    return [
        type("Bearer", (getattr(aio, f"{kind}ClientInterceptor"),), {method: go_on})()
        for kind, method in zip(_KINDS, _METHODS, strict=True)
    ]


def proxy_variable(address: str) -> str:
    """The environment variable with the proxy through which a client's channel may reach
    `address`; empty if there is none. A proxy that `no_proxy` excludes for it is named, too."""
    if _is_local(address):
        return ""
    return next((name for name in _PROXY_VARIABLES if os.environ.get(name)), "")


def _client_options(address: str) -> tuple[tuple[str, int], ...]:
    # A proxy cannot reach what only this machine can, and gRPC would ask it all the same.
    return (*_COMMON, _NO_PROXY) if _is_local(address) else _COMMON


def _is_local(address: str) -> bool:
    """Whether it is a Unix socket or an address of the loopback."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
