"""Host names, and what the machine's own resolver makes of them."""

from __future__ import annotations

import random
import socket
import threading
from typing import Any

import pytest

from aggregator.plans.resolving import HostName, SystemResolver, Unresolved, host_name_of
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1:1", None),
        ("[::1]:1", None),
        ("[fe80::1%eth0]:1", None),
        ("unix:/a:1", None),
        ("localhost:1", HostName("localhost", 1)),
        ("predictor-setosa.example:50061", HostName("predictor-setosa.example", 50061)),
        ("1.example:2", HostName("1.example", 2)),
    ],
)
def test_names_are_told_from_addresses(address: str, name: HostName | None) -> None:
    assert host_name_of(address) == name


def answer(*hosts: str) -> list[Any]:
    """What getaddrinfo answers for these."""
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    found = [(families[":" in each], socket.SOCK_STREAM, 6, "", (each, 7)) for each in hosts]
    random.shuffle(found)
    return found


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        (("10.0.0.2", "10.0.0.3", "10.0.0.2"), {"10.0.0.2:7", "10.0.0.3:7"}),
        (("10.0.0.2", "fd00::2"), {"10.0.0.2:7"}),
        (("fd00::2", "fd00::3"), {"[fd00::2]:7", "[fd00::3]:7"}),
    ],
)
async def test_all_addresses_of_a_name_are_found_in_whatever_order(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], found: set[str]
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer(*hosts))
    assert await SystemResolver().look_up(HostName("somebody", 7)) == found


@pytest.mark.parametrize("host", ["two..dots", "x" * 64 + ".example"])
async def test_what_is_no_host_name_is_told(host: str) -> None:
    with pytest.raises(Unresolved, match=r"the look-up of .* failed"):
        await SystemResolver().look_up(HostName(host, 7))


async def test_a_look_up_that_hangs_is_given_up_and_not_begun_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung, asked = threading.Event(), []

    def getaddrinfo(*words: Any, **_: Any) -> Any:
        asked.append(words)
        hung.wait(60)
        return answer("10.0.0.2")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(timeout_s=0.05)
    try:
        for _ in range(3):
            with pytest.raises(Unresolved, match=r"of slow took more than 0\.05 s"):
                await resolver.look_up(HostName("slow", 7))
            await eventually(lambda: bool(asked))
        assert len(asked) == 1
    finally:
        hung.set()

    async def is_found() -> bool:
        try:
            return await resolver.look_up(HostName("slow", 7)) == {"10.0.0.2:7"}
        except Unresolved:
            return False

    await eventually(is_found)
