"""Whether the ports that a start wants are free, before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from trillium.process import StartFailed

HOST = "127.0.0.1"
"""Where `trillium up` listens: this machine and nobody else."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port, what for, and the option that changes it."""

    port: int
    purpose: str
    option: str


def is_free(port: int) -> bool:
    """Whether one can listen on `port` of `HOST` at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger from an earlier run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def check(wanted: Sequence[Wanted]) -> None:
    """Raises StartFailed, naming the first port that cannot be had and the option that helps."""
    taken: dict[int, Wanted] = {}
    for each in wanted:
        if each.port > 65535:
            text = f"{each.purpose} would need port {each.port}, and 65535 is the last one"
            raise StartFailed(f"{text}; choose a lower {each.option}")
        if each.port in taken:
            other = taken[each.port].purpose
            text = f"port {each.port} is wanted for {other} and for {each.purpose}"
            raise StartFailed(f"{text}; choose another {each.option}")
        if not is_free(each.port):
            text = f"port {each.port}, wanted for {each.purpose}, is in use or not allowed"
            raise StartFailed(f"{text}; stop what listens there or choose another {each.option}")
        taken[each.port] = each
