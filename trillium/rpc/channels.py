"""Where channels are made. TLS and credentials belong here and in `front`, and nowhere else."""

from __future__ import annotations

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

_LINK: tuple[tuple[str, int], ...] = (
    *_COMMON,
    # Despite its name, also how long an attempt to connect may take; the default is 20 seconds.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A host that vanished, or a process that hangs, is noticed within four seconds.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    # Predictors are neighbours; a proxy that the environment names is for the world outside.
    ("grpc.enable_http_proxy", 0),
)


def link_channel(address: str) -> aio.Channel:
    """A channel between Trillium's own servers: pings an idle peer and reconnects quickly."""
    return aio.insecure_channel(address, options=_LINK)


def client_channel(address: str) -> aio.Channel:
    """An asyncio channel of a client of ours."""
    return aio.insecure_channel(address, options=_COMMON)


def sync_client_channel(address: str) -> Any:
    """A channel of a synchronous client of ours."""
    return grpc.insecure_channel(address, options=_COMMON)
