"""Checks that the ports of a start are free, before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from trillium.server.process import StartFailed

HOST = "127.0.0.1"
"""The address of `trillium up`: reachable from this machine only."""
AGGREGATOR = "trillium.aggregator.v1.AggregatorService"
CONTROLLER = "trillium.controller.v1.ControllerService"
_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port, its purpose, and the option that changes it."""

    port: int
    purpose: str
    option: str
    service: str = ""
    """The gRPC service of Trillium on it; empty if the server speaks no gRPC."""


def is_free(port: int) -> bool:
    """Whether one can listen on `port` of `HOST` at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that lingering connections of an earlier run do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def serves(port: int, service: str) -> bool | None:
    """Whether `service` is serving on `port` of `HOST`; None if what is there does not have it.

    Waits 2 s at most.
    """
    from trillium import errors
    from trillium.client.controller import ControllerClient

    with ControllerClient(f"{HOST}:{port}", timeout_s=_WAIT_S) as client:
        try:
            return client.is_serving(service)
        except errors.TrilliumError:
            return None


def check(wanted: Sequence[Wanted], make_target: str = "") -> None:
    """Raises StartFailed for the first port in use, with the option that chooses another.

    `make_target` is the target of the Makefile that starts this, if one does: its PORT moves all.
    """
    taken: dict[int, Wanted] = {}
    for each in wanted:
        if each.port > 65535:
            text = f"{each.purpose} would need port {each.port}, and 65535 is the last one"
            raise StartFailed(f"{text}; choose a lower {each.option}")
        if each.port in taken:
            other = taken[each.port].purpose
            text = f"port {each.port} is given to both {other} and {each.purpose}"
            raise StartFailed(f"{text}; choose another {each.option}")
        if not is_free(each.port):
            another = f"choose another {each.option}"
            if make_target:
                another = f"choose other ports: make {make_target} PORT={_free_from(wanted)}"
            raise StartFailed(f"{_in_use(each)} or {another}")
        taken[each.port] = each


def _in_use(wanted: Wanted) -> str:
    port = f"port {wanted.port}, needed for {wanted.purpose},"
    if wanted.service and serves(wanted.port, wanted.service) is not None:
        return f"{port} is in use by another Trillium; stop that one"
    return f"{port} is in use or not allowed; stop what listens there"


def _free_from(wanted: Sequence[Wanted]) -> int:
    """The first of a range of free ports that is long enough for `wanted`."""
    first = wanted[0].port
    for port in range(first + 100, min(first + 2100, 65535 - len(wanted)), 100):
        if all(is_free(port + place) for place in range(len(wanted))):
            return port
    return first + 100
