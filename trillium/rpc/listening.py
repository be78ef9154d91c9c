"""Sockets that listen, for fronts that are given theirs."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any

_BACKLOG = 1024


class AddressInUse(Exception):
    """Another program listens there, or the address is none of this machine's."""


class Listening:
    """Listening sockets, and where they are."""

    def __init__(self, shares_port: bool) -> None:
        """With `shares_port` other processes of this user may listen there, too."""
        self._shares_port = shares_port
        self.addresses: list[str] = []
        """As they were asked for, with the ports that were really taken."""
        self._sockets: list[socket.socket] = []
        self._paths: list[str] = []

    @property
    def descriptors(self) -> Sequence[int]:
        """File descriptors of the sockets; a host name may stand for several."""
        return [each.fileno() for each in self._sockets]

    async def open(self, addresses: Sequence[str]) -> None:
        """Listen on `host:port` (port 0: any) and `unix:/path`.

        Raises AddressInUse, and then listens nowhere.
        """
        for address in addresses:
            try:
                is_path = address.startswith("unix:")
                opened = self._open_path(address) if is_path else await self._open_port(address)
            except OSError as error:
                self.close()
                text = f"cannot listen on {address}: it is in use or not an address of this machine"
                raise AddressInUse(text) from error
            self.addresses.append(opened)

    def turn_away(self) -> None:
        """Close whatever connection still comes, and take paths out of the way of a next server.

        For a server that accepts no more and has duplicates of the sockets, behind which callers
        would wait. Shutting the sockets down would be simpler, but h2corn dies of that.
        """
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.add_reader(listener, _accept_and_close, listener)
        self._unlink()

    def close(self) -> None:
        """Listen no longer; may be repeated."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.remove_reader(listener)
            listener.close()
        self._sockets.clear()
        self._unlink()

    def _unlink(self) -> None:
        for path in self._paths:
            os.unlink(path)
        self._paths.clear()

    def _open_path(self, address: str) -> str:
        path = address.removeprefix("unix:").removeprefix("//")
        _remove_left_over(path)
        self._listen(socket.AF_UNIX, path)
        self._paths.append(path)
        return address

    async def _open_port(self, address: str) -> str:
        host, _, text = address.rpartition(":")
        port = int(text)
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, where in found:
            listener = self._listen(family, (where[0], port, *where[2:]))
            port = listener.getsockname()[1]
        return f"{host}:{port}"

    def _listen(self, family: int, where: Any) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._sockets.append(listener)
        listener.setblocking(False)
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, self._shares_port)
        if family == socket.AF_INET6:
            # As with grpc, [::] takes IPv4 along.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, where[0] != "::")
        listener.bind(where)
        listener.listen(_BACKLOG)
        return listener


def _accept_and_close(listener: socket.socket) -> None:
    try:
        connection, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return  # Somebody else had it, or it is gone.
    connection.close()


def _remove_left_over(path: str) -> None:
    """Remove the socket of a server that is no more. Raises OSError when somebody listens there."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
