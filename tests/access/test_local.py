"""The kernel names the owner of a connection, and of nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.access.other_user import OTHER, as_root, said_by, started
from trillium.access import local

ABORT = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends RST, and the port is free at once."""


@contextmanager
def connected(host: str) -> Iterator[tuple[socket.socket, socket.socket, local.Place]]:
    """Both ends of a connection, the caller's first, and where the server listens."""
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        server = (host, listener.getsockname()[1])
        caller = stack.enter_context(socket.create_connection(server))
        accepted = stack.enter_context(listener.accept()[0])
        yield caller, accepted, server


def place(end: socket.socket) -> local.Place:
    host, port = end.getsockname()[:2]
    return host, port


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_own_connection_is_ours(host: str) -> None:
    with connected(host) as (caller, _, server):
        assert local.owner_of(place(caller), server) == os.geteuid()


def test_no_connection_proves_nothing() -> None:
    with connected("127.0.0.1") as (caller, _, server):
        assert local.owner_of(("127.0.0.1", 1), server) is None
        assert local.owner_of(place(caller), ("127.0.0.1", 1)) is None
        assert local.owner_of(("not an address", 1), server) is None
        assert local.owner_of(("::1", place(caller)[1]), server) is None


def test_an_end_that_was_closed_proves_nothing() -> None:
    # The kernel calls what nobody owns any more user 0's, who is root.
    with connected("127.0.0.1") as (caller, _, server):
        where = place(caller)
        caller.close()
        assert local.owner_of(where, server) is None


def test_whoever_listens_on_the_callers_port_proves_nothing() -> None:
    with connected("127.0.0.1") as (caller, _, server):
        where = place(caller)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        caller.close()
        with socket.create_server(where):
            assert local.owner_of(where, server) is None


def test_a_fork_asks_for_itself() -> None:
    with connected("127.0.0.1") as (caller, _, server):
        assert local.owner_of(place(caller), server) == os.geteuid()
        local._after_fork()  # What a child does first.
        assert local.owner_of(place(caller), server) == os.geteuid()


CONNECT = """
caller = socket.create_connection(tuple(argument))
done(caller.getsockname())
caller.recv(1)
"""


@as_root
async def test_another_users_connection_is_theirs() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener):
        server = listener.getsockname()
        other = await started(CONNECT, server)
        try:
            caller = tuple(await other.next())
            assert local.owner_of(caller, server) == OTHER
        finally:
            await other.end()


TAKE_OVER = """
caller = socket.socket()
caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
done("ready")
caller.bind(tuple(argument["caller"]))
while True:
    try:
        caller.connect(tuple(argument["server"]))
        break
    except OSError:
        continue
done("connected")
caller.recv(1)
"""


@as_root
@pytest.mark.parametrize("attempt", range(3))
async def test_a_port_that_another_user_takes_over_is_theirs_at_once(attempt: int) -> None:
    with connected("127.0.0.1") as (caller, accepted, server):
        where = place(caller)
        assert local.owner_of(where, server) == os.geteuid()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        caller.close()
        accepted.close()
        other = await started(TAKE_OVER, {"caller": where, "server": server})
        try:
            assert await other.next() == "ready"
            assert await other.next() == "connected"
            assert local.owner_of(where, server) == OTHER
        finally:
            await other.end()


@as_root
async def test_a_caller_in_another_network_namespace_proves_nothing() -> None:
    # The same addresses and ports may be in use there, by anybody.
    unshared = "import ctypes; ctypes.CDLL(None, use_errno=True).unshare(0x40000000)"
    code = f"""
{unshared}
from trillium.access import local
done(local.owner_of(tuple(argument["caller"]), tuple(argument["server"])))
"""
    with connected("127.0.0.1") as (caller, _, server):
        argument = {"caller": place(caller), "server": server}
        assert await said_by(code, argument, uid=0) is None


async def test_many_questions_at_once_get_their_own_answers() -> None:
    def ask(number: int) -> bool:
        with connected("127.0.0.1") as (caller, _, server):
            mine = local.owner_of(place(caller), server) == os.geteuid()
            return mine and local.owner_of(("127.0.0.1", 1), server) is None

    answers = await asyncio.gather(*(asyncio.to_thread(ask, each) for each in range(64)))
    assert all(answers)
