"""TLS on every door: whom clients trust, what they are shown, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme

import gateway.app
from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from controller.app import running_controller
from controller.config import ControllerConfig
from gateway.app import running_gateway
from gateway.config import GatewayConfig
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.trained import trained
from tests.waiting import eventually
from trillium import Client, healthcheck
from trillium.client.aio import AsyncClient
from trillium.client.controller import AsyncControllerClient
from trillium.errors import TrilliumError, Unreachable
from trillium.server.doors import check_reach
from trillium.server.process import StartFailed
from trillium.server.tls import Certificate

ROW = [5.1, 3.5, 1.4, 0.2]
HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Files:
    """An authority, and a certificate of it in files."""

    authority: trustme.CA
    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_cert": self.folder / "cert.pem", "tls_key": self.folder / "key.pem"}

    def issue(self, *hosts: str) -> None:
        """Write another certificate."""
        made = self.authority.issue_cert(*(hosts or HOSTS))
        for name, content in (
            ("cert.pem", b"".join(each.bytes() for each in made.cert_chain_pems)),
            ("key.pem", made.private_key_pem.bytes()),
        ):
            new = self.folder / f"{name}.new"
            new.write_bytes(content)
            new.replace(self.folder / name)


def files_in(folder: Path) -> Files:
    files = Files(trustme.CA(), folder)
    files.authority.cert_pem.write_to_path(files.ca)
    files.issue()
    return files


@dataclass(frozen=True, slots=True)
class Doors:
    """Servers that speak TLS, with gateway and aggregator reaching what is behind them by it."""

    files: Files
    aggregator: str
    controller: str
    gateway: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    files = files_in(tmp_path_factory.mktemp("tls"))
    models = trained(tmp_path_factory, "iris")
    shared: dict[str, Any] = {"listen": "127.0.0.1:0", **files.settings}
    async with AsyncExitStack() as stack:
        setosa = await stack.enter_async_context(
            running_predictor(
                PredictorConfig(listen="127.0.0.1:0", model=models / "iris-setosa.onnx")
            )
        )
        store = f"sqlite:{tmp_path_factory.mktemp('store') / 'store.db'}"
        controller = await stack.enter_async_context(
            running_controller(ControllerConfig(store=store, **shared))
        )
        aggregator = await stack.enter_async_context(
            running_aggregator(AggregatorConfig((Endpoint("setosa", setosa.address),), **shared))
        )
        await eventually(aggregator.roster.all_ready)
        front = await stack.enter_async_context(
            running_gateway(
                GatewayConfig(
                    aggregator=aggregator.address,
                    controller=controller.address,
                    aggregator_tls_ca=files.ca,
                    controller_tls_ca=files.ca,
                    **shared,
                )
            )
        )
        yield Doors(files, aggregator.address, controller.address, front.address)


@pytest.mark.asyncio(loop_scope="module")
async def test_clients_that_trust_the_authority_get_in(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocking() -> None:
        with Client(doors.aggregator, tls_ca=doors.files.ca) as client:
            assert client.predict([ROW]).class_labels == ("setosa",)

    await asyncio.to_thread(blocking)
    async with AsyncControllerClient(doors.controller, tls_ca=doors.files.ca) as controller:
        assert [each async for each in controller.deployments()] == []
    monkeypatch.setenv("TRILLIUM_TLS_CA", doors.files.ca)
    async with AsyncClient(doors.aggregator) as client:
        assert (await client.predict([ROW])).class_labels == ("setosa",)
    assert await healthcheck.status_of(doors.aggregator) == "SERVING"


@pytest.mark.asyncio(loop_scope="module")
async def test_http_callers_get_in_and_their_calls_go_on_over_tls(doors: Doors) -> None:
    trusting = ssl.create_default_context(cafile=doors.files.ca)
    async with aiohttp.ClientSession(f"https://{doors.gateway}") as session:
        for path, body in (("/predict", {"data": [ROW]}), ("/v1/deployments", None)):
            method = "POST" if body else "GET"
            async with session.request(method, path, json=body, ssl=trusting) as answer:
                assert answer.status == 200, await answer.text()
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get("/health")


@pytest.mark.asyncio(loop_scope="module")
async def test_whoever_trusts_another_authority_or_none_does_not(
    doors: Doors, tmp_path: Path
) -> None:
    other = files_in(tmp_path)
    for tls_ca in (other.ca, "system", ""):
        async with AsyncClient(doors.aggregator, tls_ca=tls_ca, timeout_s=5) as client:
            with pytest.raises(TrilliumError) as caught:
                await client.predict([ROW])
            assert isinstance(caught.value, Unreachable), caught.value


@pytest.mark.asyncio(loop_scope="module")
async def test_a_certificate_of_another_name_is_refused(doors: Doors, tmp_path: Path) -> None:
    files = Files(doors.files.authority, tmp_path)
    files.issue("elsewhere.example")
    settings = PredictorConfig(listen="127.0.0.1:0", **files.settings)
    async with (
        running_predictor(settings) as predictor,
        AsyncClient(predictor.address, tls_ca=doors.files.ca, timeout_s=5) as client,
    ):
        with pytest.raises(Unreachable):
            await client.predict([ROW])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_renewed_certificate_is_shown_and_no_call_fails(doors: Doors) -> None:
    host, _, port = doors.aggregator.rpartition(":")
    done = asyncio.Event()
    answered = 0

    async def load() -> None:
        nonlocal answered
        while not done.is_set():
            # A connection for each: a handshake each time.
            async with AsyncClient(doors.aggregator, tls_ca=doors.files.ca) as client:
                await client.predict([ROW], timeout_s=30)
                answered += 1

    async def serial() -> bytes:
        """What a new connection is shown."""
        context = ssl.create_default_context(cafile=doors.files.ca)
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return shown

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load())
        seen = {await serial()}
        for _ in range(5):
            doors.files.issue()

            async def is_another() -> bool:
                return await serial() not in seen

            await eventually(is_another, 20)
            seen.add(await serial())
            before = answered
            await eventually(lambda b=before: answered > b + 8, 30)  # type: ignore[misc]
        done.set()
    assert len(seen) == 6


async def test_a_gateway_shows_a_renewed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.app, "RENEWAL_S", 0.05)
    files = files_in(tmp_path)
    settings = GatewayConfig(listen="127.0.0.1:0", **files.settings)
    async with running_gateway(settings) as front:
        host, _, port = front.address.rpartition(":")
        context = ssl.create_default_context(cafile=files.ca)

        async def shown() -> bytes:
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
            writer.close()
            return found

        first = await shown()
        files.issue()

        async def is_another() -> bool:
            return await shown() != first

        await eventually(is_another, 20)


async def test_half_a_pair_and_files_that_do_not_belong_together_are_named(
    tmp_path: Path,
) -> None:
    files, other = files_in(tmp_path), Files(trustme.CA(), tmp_path / "other")
    other.folder.mkdir()
    other.issue()
    for settings, told in (
        ({"tls_cert": files.settings["tls_cert"]}, "go together"),
        ({**files.settings, "tls_key": other.settings["tls_key"]}, "KEY_VALUES_MISMATCH"),
        ({**files.settings, "tls_key": tmp_path / "missing"}, "No such file"),
        ({**files.settings, "tls_cert": files.settings["tls_key"]}, "cannot be used"),
    ):
        with pytest.raises(StartFailed, match=told):
            async with running_predictor(PredictorConfig(listen="127.0.0.1:0", **settings)):
                pass


def test_files_that_are_half_written_leave_the_certificate_as_it_is(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    certificate = Certificate(files.settings["tls_cert"], files.settings["tls_key"])
    shown, key = certificate.shown, files.settings["tls_key"].read_bytes()
    assert not certificate.renewed()
    files.settings["tls_key"].write_bytes(key[: len(key) // 2])
    assert not certificate.renewed()
    assert certificate.shown == shown
    files.settings["tls_key"].unlink()
    assert not certificate.renewed()
    files.issue()
    assert certificate.renewed()
    assert certificate.shown != shown
    assert not certificate.renewed()


def test_with_tls_other_machines_may_reach_a_server(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    everywhere = "0.0.0.0:50061"
    check_reach(PredictorConfig(**files.settings), everywhere)
    check_reach(PredictorConfig(insecure="yes"), everywhere)
    for config, has_tls in ((PredictorConfig(), True), (PredictorConfig(**files.settings), False)):
        with pytest.raises(StartFailed, match="may be reached from other machines"):
            check_reach(config, everywhere, has_tls=has_tls)
    for listen in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/p.sock", "127.9.9.9:1"):
        check_reach(PredictorConfig(), listen)


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot read the certificates"), (b"x", "holds no certificate")]
)
def test_authorities_that_cannot_be_used_are_named(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        Client("127.0.0.1:1", tls_ca=str(path))


async def test_a_token_of_the_environment_lends_the_gateway_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever starts it may have one for the command line; its callers must not get it.
    (tmp_path / "token").write_text("trillium_of_the_shell")
    monkeypatch.setenv("TRILLIUM_TOKEN_FILE", str(tmp_path / "token"))
    access, _ = gateway.app._accesses(GatewayConfig())
    assert access.token == ""
