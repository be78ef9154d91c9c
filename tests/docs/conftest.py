"""A live system for the examples: `trillium up` with a gateway, as the pages tell to start it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Starter, Up
from tests.ports import free_ports
from tests.trained import trained


@dataclass(frozen=True, slots=True)
class Live:
    """A system that is up."""

    up: Up
    addresses: Mapping[str, str]
    """Where it is by where the pages say that it is."""


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """As of a shell in which `.venv` is active, without settings or a terminal's width."""
    left_out = ("TRILLIUM_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "ORT_DISABLE_TELEMETRY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained iris models."""
    return trained(tmp_path_factory, "iris")


@pytest.fixture(scope="session")
def live(
    models: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """The iris ensemble, a controller with a fresh store, and a gateway."""
    (http,) = free_ports(1)
    starter = Starter(models, environment, tmp_path_factory.mktemp("live"))
    up = starter("--gateway", "--gateway-port", str(http))
    try:
        asyncio.run(up.until("Ctrl-C stops everything"))
        places = {50051: up.port, 50052: up.controller_port, 9000: http}
        addresses = {
            f"{host}:{written}": f"127.0.0.1:{real}"
            for written, real in places.items()
            for host in ("127.0.0.1", "localhost")
        }
        yield Live(up, addresses)
        up.process.send_signal(signal.SIGINT)
        assert asyncio.run(up.ended_with_all()) == 0, up.complained
    finally:
        up.end()
