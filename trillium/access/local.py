"""Who is at the other end of a connection on this machine, as the kernel reports it.

The kernel knows the user that owns the caller's end of a TCP connection over the loopback. It is
asked for each call anew, which takes 7 microseconds: ports are used again, and an answer that was
kept could be about somebody else by then. The request and the answer are those of
`man 7 sock_diag`, for one socket that is named by both ends.
"""

from __future__ import annotations

import atexit
import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from functools import cache, lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""An IP address and a port."""

_SOCK_DIAG, _BY_FAMILY, _REQUEST_FLAG = 4, 20, 1
_ESTABLISHED = 1
_ANY = 0xFFFFFFFF
_HEAD = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_PORTS = struct.Struct("!HH")
_REST = struct.Struct("=III")
_ANSWERED = struct.Struct("=xBxx48x12xII")
_SIZE = _HEAD.size + _ASKED.size + _PORTS.size + 32 + _REST.size
_LARGEST = 1024


def can_prove() -> bool:
    """Whether this system reports who is at the other end of a connection."""
    return sys.platform == "linux" and _asker() is not None


def owner_of(caller: Place, server: Place) -> int | None:
    """The user who owns the caller's end of an open connection from `caller` to `server`.

    None if nothing is proved: there is no such connection in this network namespace, its owner has
    let go of it, or is no user here.
    """
    asker = _asker()
    found = None if asker is None else asker.ask(caller, server)
    # What another user namespace's users are called here would stand for any of them.
    return None if found == _nobody() else found


def is_loopback(host: str) -> bool:
    """Whether it is an address of the loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _nobody() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


class _Asker:
    """A socket to the kernel; safe to share between threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._socket = self._opened()

    def ask(self, caller: Place, server: Place) -> int | None:
        with self._turn:
            try:
                self._socket.send(_question(caller, server))
                return _owner(self._socket.recv(_LARGEST))
            except OSError:
                # Not answered is not proved. An answer that comes later must not be taken for one
                # to the next question.
                self._socket.close()
                with suppress(OSError):
                    self._socket = self._opened()
                return None

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def _opened() -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        return socket.socket(socket.AF_NETLINK, kind, _SOCK_DIAG)


@lru_cache(maxsize=4096)
def _question(caller: Place, server: Place) -> bytes:
    """Raises OSError for what is no IP address."""
    family = socket.AF_INET6 if ":" in caller[0] else socket.AF_INET
    return (
        _HEAD.pack(_SIZE, _BY_FAMILY, _REQUEST_FLAG, 0, 0)
        + _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY)
        + _PORTS.pack(caller[1], server[1])
        + socket.inet_pton(family, caller[0]).ljust(16, b"\0")
        + socket.inet_pton(family, server[0]).ljust(16, b"\0")
        + _REST.pack(0, _ANY, _ANY)
    )


def _owner(answer: bytes) -> int | None:
    if _HEAD.unpack_from(answer)[1] != _BY_FAMILY:
        return None  # An error: there is no such socket.
    state, uid, inode = _ANSWERED.unpack_from(answer, _HEAD.size)
    # A socket whose owner has let go of it has inode 0, and user 0 on top. The kernel reads the
    # inode after the user, so one that has both was owned. Whatever else has that port, such as
    # somebody who listens there, is in another state.
    return uid if state == _ESTABLISHED and inode else None


@cache
def _asker() -> _Asker | None:
    if sys.platform != "linux":
        return None
    try:
        asker = _Asker()
    except OSError:
        return None
    atexit.register(asker.close)
    return asker


def _after_fork() -> None:
    """The answers to two processes on one socket would be mixed up."""
    if _asker.cache_info().currsize:
        asker = _asker()
        if asker is not None:
            asker.close()
        _asker.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
