"""Proxies that the environment names: never for this machine, and named when nobody answers."""

from __future__ import annotations

import asyncio

import pytest

import trillium
from tests.client.conftest import Ensemble
from tests.ports import free_ports
from trillium.rpc.channels import proxy_variable

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture
def no_such_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.usefixtures("no_such_proxy")
async def test_clients_reach_the_loopback_without_a_proxy(ensemble: Ensemble) -> None:
    with trillium.Client(ensemble.address) as client:
        answer = await asyncio.to_thread(client.classify, ROW)
    assert answer.labels.tolist() == ["setosa"]
    async with trillium.AsyncClient(ensemble.address) as asking:
        assert (await asking.classify(ROW)).labels.tolist() == ["setosa"]


@pytest.mark.usefixtures("no_such_proxy")
def test_the_error_of_another_machine_names_the_proxy() -> None:
    with (
        trillium.Client("203.0.113.1:50051") as client,
        pytest.raises(trillium.Unreachable, match="asked through the proxy that http_proxy names"),
    ):
        client.classify(ROW)


@pytest.mark.parametrize(
    ("address", "variable"),
    [
        ("unix:/run/a.sock", ""),
        ("127.0.0.1:1", ""),
        ("127.9.8.7:1", ""),
        ("localhost:1", ""),
        ("[::1]:1", ""),
        ("example.org:1", "http_proxy"),
        ("[2001:db8::1]:1", "http_proxy"),
    ],
)
@pytest.mark.usefixtures("no_such_proxy")
def test_the_loopback_and_unix_sockets_are_local(address: str, variable: str) -> None:
    assert proxy_variable(address) == variable
