"""The gateway as a process: settings, drain, log, and the curl lines of the older systems."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.app import _Server
from gateway.config import GatewayConfig, from_command_line
from tests.gateway.serving import CALL_S, System, gateway_before, raw_exchange
from tests.waiting import eventually
from trillium.server import logs
from trillium.server.config import ConfigError

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def started(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m gateway` with these words; it is ended at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *words,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("TRILLIUM_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, message: str) -> dict[str, str]:
    """The next line of the log with that message."""
    assert process.stderr is not None
    async with asyncio.timeout(CALL_S):
        async for raw in process.stderr:
            line: dict[str, str] = json.loads(raw)
            if line["message"] == message:
                return line
    raise AssertionError(f"no log line {message!r}")


async def test_settings_come_from_flags_and_the_environment() -> None:
    environment = {"TRILLIUM_GATEWAY_CONTROLLER": "c:1", "TRILLIUM_GATEWAY_AGGREGATOR": "a:1"}
    config = from_command_line(["--aggregator", "a:2", "--drain-s", "3"], environment)
    assert config == GatewayConfig(aggregator="a:2", controller="c:1", drain_s=3.0)
    with pytest.raises(ConfigError) as caught:
        from_command_line(["--listen", "9000", "--max-requests", "0"], {})
    assert len(caught.value.problems) == 2


async def test_a_port_that_is_taken_is_reported(iris: System) -> None:
    async with started("--listen", iris.gateway.address) as process:
        _, complaint = await asyncio.wait_for(process.communicate(), CALL_S)
        assert process.returncode == 1
        assert complaint.decode().startswith(f"gateway: cannot listen on {iris.gateway.address}: ")


async def test_sigterm_ends_watches_and_lets_requests_finish(iris: System) -> None:
    words = ("--aggregator", iris.aggregator, "--controller", iris.controller)
    async with started("--listen", "127.0.0.1:0", *words) as process:
        address = (await line_with(process, "serving"))["address"]
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/deployments:watch HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(CALL_S):
            await reader.readuntil(b"snapshot_end")
            process.send_signal(signal.SIGTERM)
            rest = await reader.read()
        writer.close()
        assert rest.endswith(b"0\r\n\r\n"), "the watch did not end in order"
        assert await asyncio.wait_for(process.wait(), CALL_S) == 0


async def test_a_request_in_flight_is_finished_by_a_drain(iris: System) -> None:
    body = b'{"data": [[5.1, 3.5, 1.4, 0.2]]}'
    head = (
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    async with gateway_before(iris.aggregator, iris.controller, drain_s=30.0) as (up, _):
        host, _, port = up.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        await writer.drain()
        await eventually(lambda: up.edge.in_flight == 1)
        sending = asyncio.create_task(_send_later(up.address, writer, body, reader))
    answer = await asyncio.wait_for(sending, CALL_S)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def _send_later(
    address: str, writer: asyncio.StreamWriter, body: bytes, reader: asyncio.StreamReader
) -> bytes:
    """Send the body once the gateway takes no new connections; what it answers."""
    async with asyncio.timeout(CALL_S):
        while True:
            try:
                await raw_exchange(address, [b"GET /health HTTP/1.0\r\n\r\n"])
            except OSError:
                break
        writer.write(body)
        answer = await reader.read()
    writer.close()
    return answer


async def test_the_curl_lines_of_the_older_systems_work(stocked: System) -> None:
    assert shutil.which("curl"), "curl is missing: on Debian, apt-get install curl"
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts" / "smoke_http.sh",
        stocked.call.base,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SMOKE_JOB_ID": "smoke"},
    )
    output, _ = await asyncio.wait_for(process.communicate(), 2 * CALL_S)
    assert process.returncode == 0, output.decode()
    assert output.decode().endswith("15 checks passed\n")


async def test_no_answer_on_a_kept_connection_waits_for_an_acknowledgement() -> None:
    def ask() -> Generator[float]:
        """How long each of the answers takes that come before the time is up."""
        connection = http.client.HTTPConnection(gateway.address, timeout=CALL_S)
        with contextlib.closing(connection):
            give_up = time.monotonic() + CALL_S
            while time.monotonic() < give_up:
                begun = time.perf_counter()
                connection.request("GET", "/docs")
                assert connection.getresponse().read()
                yield time.perf_counter() - begun

    def is_quick() -> bool:
        """Whether one of them is, however busy the machine is, as none is that has to wait.

        The kernel acknowledges the first packets of a connection at once, and later ones after
        40 ms.
        """
        with contextlib.closing(ask()) as answers:
            return any(took < 0.03 for number, took in enumerate(answers) if number >= 30)

    async with gateway_before("127.0.0.1:1", "127.0.0.1:1") as (gateway, _):
        assert await asyncio.to_thread(is_quick)


@pytest.mark.parametrize("error", [None, OSError("no more sockets")])
async def test_a_server_that_ends_on_its_own_ends_the_process(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(server: _Server, sockets: object) -> None:
        server.started_up.set()
        if error is not None:
            raise error

    monkeypatch.setattr(_Server, "serve", serve)
    monkeypatch.setattr(sys, "argv", ["gateway", "--listen=127.0.0.1:0"])
    monkeypatch.setattr(logs, "configure", lambda program, level: None)
    async with asyncio.timeout(CALL_S):
        with pytest.raises((OSError, RuntimeError), match=r"no more sockets|ended unexpectedly"):
            await main()
    assert "the HTTP server ended unexpectedly" in caplog.messages
