"""The current addresses of host names, from this machine's own resolver."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from ipaddress import ip_address

LOOK_UP_S = 5.0
"""How long one look-up may take; the C library itself may try for half a minute."""


class Unresolved(Exception):
    """A name cannot be resolved. Its text is the reason, for a person."""


@dataclass(frozen=True, slots=True)
class HostName:
    """A host that must be looked up, and the port on it."""

    host: str
    port: int


def host_name_of(address: str) -> HostName | None:
    """The name in `host:port`; None for an IP address or a unix socket."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or host.startswith("["):
        return None
    try:
        ip_address(host)
    except ValueError:
        return HostName(host, int(port))
    return None


class SystemResolver:
    """The C library's resolver: /etc/hosts, DNS, and whatever else the machine has set up.

    It blocks, so each look-up has a thread, and a name has one at most: one that hangs is waited
    for again instead of being resolved twice.
    """

    def __init__(self, *, timeout_s: float = LOOK_UP_S) -> None:
        self._timeout_s = timeout_s
        self._under_way: dict[HostName, asyncio.Future[frozenset[str]]] = {}

    async def look_up(self, name: HostName) -> frozenset[str]:
        """Every address of the name, as `ip:port`; at least one. Raises Unresolved.

        A name with IPv4 and IPv6 addresses stands for its IPv4 ones: a host that has both is one
        predictor, not two.
        """
        answer = self._under_way.get(name)
        if answer is None:
            answer = self._under_way[name] = self._ask(name)
            answer.add_done_callback(lambda _: self._under_way.pop(name))
        done, _ = await asyncio.wait([answer], timeout=self._timeout_s)
        if not done:
            raise Unresolved(f"the look-up of {name.host} took more than {self._timeout_s:g} s")
        return answer.result()

    def _ask(self, name: HostName) -> asyncio.Future[frozenset[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[frozenset[str]] = loop.create_future()

        def tell(found: frozenset[str] | Unresolved) -> None:
            if answer.cancelled():
                return
            if isinstance(found, Unresolved):
                answer.set_exception(found)
                # Nobody may be waiting any more.
                answer.exception()
            else:
                answer.set_result(found)

        def ask() -> None:
            found = _found(name)
            # A loop that has been closed meanwhile waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, found)

        # Not of a pool: a process waits for those at its end, however long they hang.
        threading.Thread(target=ask, name=f"look-up of {name.host}", daemon=True).start()
        return answer


def _found(name: HostName) -> frozenset[str] | Unresolved:
    try:
        answers = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        # Names that are too long or have empty parts do not even get to the resolver.
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        return Unresolved(f"the look-up of {name.host} failed: {why}")
    hosts = {family: set[str]() for family in (socket.AF_INET, socket.AF_INET6)}
    for family, *_, where in answers:
        if family in hosts:
            hosts[family].add(str(where[0]))
    addresses = {f"{host}:{name.port}" for host in hosts[socket.AF_INET]} or {
        f"[{host}]:{name.port}" for host in hosts[socket.AF_INET6]
    }
    return frozenset(addresses) or Unresolved(f"{name.host} has no address")
