"""Where channels are made. TLS and credentials belong here and in `front`, and nowhere else."""

from __future__ import annotations

import os
from typing import Any

import grpc
from grpc import aio

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


def link_channel(address: str) -> aio.Channel:
    """A channel between Trillium's own servers: pings an idle peer and reconnects quickly."""
    return aio.insecure_channel(address, options=_LINK)


def client_channel(address: str) -> aio.Channel:
    """An asyncio channel of a client of ours."""
    return aio.insecure_channel(address, options=_client_options(address))


def sync_client_channel(address: str) -> Any:
    """A channel of a synchronous client of ours."""
    return grpc.insecure_channel(address, options=_client_options(address))


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
