"""Settings of a gateway."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from trillium.server.config import (
    ServerConfig,
    address,
    nonempty,
    read,
    seconds,
    setting,
    settings_of,
    whole_number,
)
from trillium.tables.numbers import is_number

MIB = 1024 * 1024
PROGRAM = "gateway"
SHORTEST_TIMEOUT_S = 0.001
LONGEST_TIMEOUT_S = 86_400.0
ALLOWED_HOST = "--allowed-host"
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]([a-z0-9._-]{0,252}[a-z0-9_-])?)\.?")


def host_name(text: str) -> str:
    """A name or address in the form in which hosts are compared: lower case, without brackets and
    final dot.

    Raises ValueError if it is neither.
    """
    lower = text.lower()
    if _HOST.fullmatch(lower) is None:
        raise ValueError("expected a host name or an address without a port, such as proxy.example")
    bare = lower.rstrip(".").strip("[]")
    if lower.startswith("["):
        return str(ip_address(bare))
    return bare


def row(text: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises ValueError."""
    values = []
    for cell in text.split(","):
        if not is_number(cell) or not math.isfinite(float(cell)):
            raise ValueError(f"expected finite numbers with commas between them, got {cell!r}")
        values.append(float(cell))
    return tuple(values)


@dataclass(frozen=True, slots=True)
class GatewayConfig(ServerConfig):
    """The settings of a gateway."""

    listen: str = setting(address, "127.0.0.1:9000", "where to listen; port 0 takes any")
    aggregator: str = setting(
        address, "127.0.0.1:50051", "aggregator that scores rows", metavar="ADDRESS"
    )
    controller: str = setting(
        address,
        "127.0.0.1:50052",
        "controller of deployments, runs and the catalog",
        metavar="ADDRESS",
    )
    aggregator_tls_ca: str = setting(
        nonempty,
        "",
        "authorities that the aggregator is trusted by: a file, or system",
        metavar="FILE",
    )
    controller_tls_ca: str = setting(
        nonempty,
        "",
        "authorities that the controller is trusted by: a file, or system",
        metavar="FILE",
    )
    allowed_hosts: tuple[str, ...] = setting(
        host_name,
        (),
        "an additional host name for which requests are accepted, next to the address it listens "
        "on; requests for any other host are refused",
        repeatable=True,
        metavar="NAME",
        flag=ALLOWED_HOST,
    )
    max_body_bytes: int = setting(
        whole_number(1024, 2**29), 16 * MIB, "largest request body in bytes"
    )
    max_bytes_in_flight: int = setting(
        whole_number(1024, 2**40),
        32 * MIB,
        "largest sum of the request bodies that are served at once; JSON takes up to eight times "
        "as much memory",
    )
    max_requests: int = setting(
        whole_number(1, 65536), 1024, "maximum number of concurrent requests"
    )
    default_timeout_s: float = setting(
        seconds(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S),
        10.0,
        "deadline of requests without the header request-timeout, and of receiving any body",
    )
    verb_timeout_s: float = setting(
        seconds(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S),
        120.0,
        "the same for requests that wait for a deployment or a run",
    )
    sample: tuple[float, ...] = setting(
        row,
        (),
        "row that /predict/get/test and /metadata score where the models carry none: numbers with "
        "commas between them",
        metavar="ROW",
    )


SETTINGS = settings_of(GatewayConfig)


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> GatewayConfig:
    """The config from flags and environment. Raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Serve an aggregator and a controller as HTTP and JSON.",
    )
    return GatewayConfig(**values)
