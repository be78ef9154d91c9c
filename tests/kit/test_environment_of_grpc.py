"""What every server process sets for gRPC before it is imported, and that gRPC understands it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trillium.server.process import settle_environment

SERVE = """
import asyncio
from trillium.server.process import settle_environment
settle_environment()
from grpc import aio

async def serve():
    server = aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(None)

asyncio.run(serve())
"""


def stderr_of_a_server(**settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_EXPERIMENTS", "GRPC_VERBOSITY"):
        monkeypatch.setenv(name, "")  # Has what the code under test sets taken back, too.
        monkeypatch.delenv(name)


def test_event_engine_is_off() -> None:
    settle_environment()
    assert os.environ["GRPC_EXPERIMENTS"] == "-event_engine_client,-event_engine_listener"


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "event_engine_client")
    monkeypatch.setenv("GRPC_VERBOSITY", "INFO")
    settle_environment()
    assert os.environ["GRPC_EXPERIMENTS"] == "event_engine_client"
    assert os.environ["GRPC_VERBOSITY"] == "INFO"


def test_installed_grpcio_knows_the_experiments() -> None:
    # It writes a line on standard error, whatever its verbosity, for each name that it does not.
    assert stderr_of_a_server() == ""
    assert "Unknown experiment: gone" in stderr_of_a_server(GRPC_EXPERIMENTS="-gone")
