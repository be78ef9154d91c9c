"""Settings of a gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from trillium.config import Setting, address, one_of, read, seconds, whole_number

MIB = 1024 * 1024
PROGRAM = "gateway"
SHORTEST_TIMEOUT_S = 0.001
LONGEST_TIMEOUT_S = 86_400.0
ALLOWED_HOST = "--allowed-host"
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]([a-z0-9._-]{0,252}[a-z0-9_-])?)\.?")


def host_name(text: str) -> str:
    """A name or address as hosts are compared: in lower case, without brackets and last dot.

    Raises ValueError for what is neither.
    """
    lower = text.lower()
    if _HOST.fullmatch(lower) is None:
        raise ValueError("expected a host name or an address without a port, such as proxy.example")
    bare = lower.rstrip(".").strip("[]")
    if lower.startswith("["):
        return str(ip_address(bare))
    return bare


SETTINGS = (
    Setting("listen", address, "127.0.0.1:9000", "where to listen; port 0 takes any"),
    Setting("aggregator", address, "127.0.0.1:50051", "who scores rows", metavar="ADDRESS"),
    Setting(
        "controller",
        address,
        "127.0.0.1:50052",
        "who keeps deployments, runs and the catalog",
        metavar="ADDRESS",
    ),
    Setting(
        "allowed_hosts",
        host_name,
        (),
        "a name by which callers reach it, beside those that it listens on; requests for any other "
        "host get nothing",
        repeatable=True,
        metavar="NAME",
        flag=ALLOWED_HOST,
    ),
    Setting("max_body_bytes", whole_number(1024, 2**29), 16 * MIB, "largest request body"),
    Setting("max_requests", whole_number(1, 65536), 1024, "most requests served at once"),
    Setting(
        "default_timeout_s",
        seconds(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S),
        10.0,
        "time of requests without the header request-timeout, and for any body to arrive",
    ),
    Setting(
        "verb_timeout_s",
        seconds(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S),
        120.0,
        "the same for those that wait for a deployment or a run",
    ),
    Setting("drain_s", seconds(0, 3600), 10.0, "how long a stop waits for requests in flight"),
    Setting("parent_pid", whole_number(1, 2**31), None, "stop when this parent process dies"),
    Setting("log_level", one_of("debug", "info", "warning", "error"), "info", "what to log from"),
)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything that a gateway is told."""

    listen: str = "127.0.0.1:9000"
    aggregator: str = "127.0.0.1:50051"
    controller: str = "127.0.0.1:50052"
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 16 * MIB
    max_requests: int = 1024
    default_timeout_s: float = 10.0
    verb_timeout_s: float = 120.0
    drain_s: float = 10.0
    parent_pid: int | None = None
    log_level: str = "info"


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> GatewayConfig:
    """The config that flags and environment make; raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Serve an aggregator and a controller as HTTP and JSON.",
    )
    return GatewayConfig(**values)
