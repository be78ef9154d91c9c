"""The engine under the whole of compose.yaml is stopped and started: one of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compose.mongo_image import SUBSTITUTE, official_image
from tests.compose.system import ROOT, SERVICES, System, installed
from tests.runtime.engine import ApartEngine
from tests.runtime.serving import pids_with
from tests.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(500)]


@pytest.fixture
async def stopped_at_will(
    apart: ApartEngine, engine: str, mongo: Mapping[str, str]
) -> AsyncIterator[ApartEngine]:
    """The engine apart with all images; afterwards it is as it was."""
    apart.start()
    copy_image(SUBSTITUTE if mongo else official_image(), engine, apart.base_url)
    yield apart
    await stop(apart)
    apart.start()


def copy_image(image: str, source: str, target: str) -> None:
    """Have the engine at `target` have what the one at `source` has."""
    save = ["docker", "--host", source, "save", image]
    load = ["docker", "--host", target, "load", "--quiet"]
    with subprocess.Popen(save, stdout=subprocess.PIPE) as saving:
        subprocess.run(load, check=True, stdin=saving.stdout, timeout=300)
    assert saving.returncode == 0


async def stop(engine: ApartEngine) -> None:
    """SIGTERM for the engine, and gone."""
    pid = engine.pid
    engine.send(signal.SIGTERM)
    await eventually(lambda: pid not in pids_with(str(engine.folder)), 100)


class Predictions:
    """What a process that predicts all the time has said."""

    def __init__(self, output: Path) -> None:
        self._output = output

    @property
    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    async def more(self, within_s: float = 40) -> None:
        """Wait for twenty more answers."""
        wanted = self.lines.count("answered") + 20
        await eventually(lambda: self.lines.count("answered") >= wanted, within_s)

    @property
    def failures(self) -> list[str]:
        return [each for each in self.lines if each != "answered"]


@contextmanager
def predicting(system: System, output: Path) -> Iterator[Predictions]:
    """Predictions all the time, from where the published port is."""
    command = [*system.within, sys.executable, "-m", "tests.compose.predicting", system.aggregator]
    with (
        output.open("wb") as file,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=file) as process,
    ):
        yield Predictions(output)
        # Leaving the context ends its standard input, and waits for it.
    assert process.returncode == 0


def has_engine(system: System, id: str) -> bool:
    """Whether the controller reaches its engine, as a deployment tells it."""
    found = system.control("GetDeployment", name=f"deployments/{id}")
    return bool(found["conditions"][0].get("holds"))


def is_in(system: System, id: str, state: str) -> bool:
    """Whether the deployment is in that state."""
    return bool(system.control("GetDeployment", name=f"deployments/{id}")["state"] == state)


async def test_all_survives_a_stop_of_the_engine_with_and_without_its_containers(
    stopped_at_will: ApartEngine, mongo: Mapping[str, str], tmp_path: Path
) -> None:
    apart = stopped_at_will
    within = ("nsenter", f"--net={apart.network}")
    with installed(apart.base_url, mongo, within=within) as system:
        system.up()
        system.control("CreateDeployment", deployment_id="one", model="iris-setosa")
        system.control("LoadDeployment", name="deployments/one")
        (made,) = system.made()

        with predicting(system, tmp_path / "live-restore") as predictions:
            await predictions.more()
            await stop(apart)
            await predictions.more()
            await eventually(lambda: not has_engine(system, "one"), 60)
            # What is asked meanwhile is done afterwards.
            asked = {"deployment_id": "two", "model": "iris-setosa", "no_wait": True}
            system.control("CreateDeployment", **asked)
            await predictions.more()
            apart.start()
            # This engine's socket is a new file, and the old one is mounted: docs/operations.md.
            system.compose("restart", "controller")
            await eventually(system.is_controlling, 60)
            await eventually(lambda: is_in(system, "two", "STATE_CREATED"), 60)
            await eventually(lambda: has_engine(system, "one"), 60)
            await predictions.more()
        assert predictions.failures == []
        assert made["Id"] in {each["Id"] for each in system.made()}
        assert len(system.made()) == 2
        system.control("TerminateDeployment", name="deployments/two")
        assert [each["Id"] for each in system.made()] == [made["Id"]]

        # The first start without live restore ends what it finds, the next ones start it again.
        await stop(apart)
        apart.start("--live-restore=false")
        system.up()
        await stop(apart)
        apart.start("--live-restore=false")
        await eventually(lambda: system.is_healthy(*SERVICES), 120)
        await eventually(lambda: is_in(system, "one", "STATE_LOADED"), 60)
        (again,) = system.made()
        assert again["Id"] != made["Id"]
        with predicting(system, tmp_path / "hard-stop") as predictions:
            await predictions.more()
        assert predictions.failures == []
