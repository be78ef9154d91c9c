"""A defect in a background task of the controller is logged by name, and its work goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from controller import predictors as predicting
from controller.deployments.document import Deployment
from controller.deployments.effects import ReconcilerPorts
from controller.deployments.probing import Probes, ProbingPolicy
from controller.deployments.reconciler import Reconciler
from controller.deployments.repository import Deployments
from controller.discovery.snapshot import Discovery
from controller.ensembles.repository import EnsembleRepository
from controller.failpoints import Failpoints
from controller.predictors import Artifact, Predictors
from controller.runtime.port import Container
from controller.store.sqlite import SqliteStore
from tests.controller.run_fakes import InProcessRuntime
from tests.waiting import eventually
from trillium.clock import SystemClock

OFTEN = ProbingPolicy(interval_s=0.01, timeout_s=0.2, failures=2)


class Flaw(Exception):
    """What is raised by mistake."""


class FlawedRuntime(InProcessRuntime):
    """Its watch fails after each wake."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = 0

    async def changes(self) -> AsyncGenerator[None, None]:
        self.watches += 1
        yield None
        raise Flaw

    async def look(self) -> Sequence[Container]:
        return []


class FlawedPredictors(Predictors):
    """Its probes fail by what they should not raise."""

    def __init__(self, flaw: type[BaseException]) -> None:
        super().__init__()
        self.probes = 0
        self._flaw = flaw

    async def answers(self, address: str, timeout_s: float) -> bool:
        self.probes += 1
        raise self._flaw


class NothingAsked:
    """No aggregator asks anything."""

    async def is_withdrawn(self, address: str) -> bool:
        return True


async def no_artifact(deployment: Deployment, digest: str) -> Artifact:
    raise AssertionError("nothing is loaded here")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    yield store
    await store.close()


def failures(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The names of the tasks that were logged as failed."""
    return {
        vars(record).get("task", record.message)
        for record in caplog.records
        if record.levelno == logging.ERROR
    }


async def test_the_watch_of_the_runtime_goes_on_after_a_defect(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    reports: list[tuple[str, bool]] = []
    runtime, clock, predictors = FlawedRuntime(), SystemClock(), Predictors()
    ports = ReconcilerPorts(
        Deployments(store, clock),
        runtime,
        predictors,
        no_artifact,
        NothingAsked(),
        clock,
        Failpoints({}),
    )
    reconciler = Reconciler(ports, on_failing=lambda *report: reports.append(report))
    async with reconciler.running():
        await eventually(lambda: ("watch of the runtime", True) in reports)
    await predictors.close()
    assert runtime.watches >= 3
    assert failures(caplog) == {"watch of the runtime"}


@pytest.mark.parametrize("flaw", [Flaw, asyncio.CancelledError])
async def test_probes_go_on_after_a_defect_and_count_nothing(
    flaw: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    silent: list[tuple[str, int]] = []
    predictors = FlawedPredictors(flaw)
    probes = Probes(predictors, SystemClock(), OFTEN, silent.append)
    for number in range(3):
        probes.follow(("d", number), f"c{number}", f"host:{number}")
    probing = asyncio.create_task(probes.run())
    await eventually(lambda: predictors.probes >= 12)
    assert not probing.done()
    probing.cancel()
    await asyncio.wait([probing])
    assert silent == []
    assert failures(caplog) == {"probe failed"}


async def test_the_publisher_of_endpoints_goes_on_after_a_defect(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock()
    discovery = Discovery(store, Deployments(store, clock), EnsembleRepository(store, clock), clock)
    refresh, calls = Discovery._refresh, 0

    async def flawed(this: Discovery) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Flaw
        await refresh(this)

    monkeypatch.setattr(Discovery, "_refresh", flawed)
    async with discovery.running():
        await eventually(lambda: discovery.snapshot.revision == 1)
    assert failures(caplog) == {"publisher of endpoints"}


@asynccontextmanager
async def hanging(count: int) -> AsyncIterator[list[str]]:
    """The addresses of servers that accept connections and never answer."""
    over = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with AsyncExitStack() as stack:
        addresses = []
        for _ in range(count):
            server = await asyncio.start_server(hang, "127.0.0.1", 0)
            stack.callback(server.close)
            addresses.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        stack.callback(over.set)
        yield addresses


async def test_no_channel_is_closed_while_a_call_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predicting, "MAX_CHANNELS", 1)
    silent: set[tuple[str, int]] = set()
    predictors = Predictors()
    async with hanging(5) as addresses:
        probes = Probes(predictors, SystemClock(), OFTEN, silent.add)
        for number, address in enumerate(addresses):
            probes.follow(("d", number), f"c{number}", address)
        probing = asyncio.create_task(probes.run())
        await eventually(lambda: silent == {("d", number) for number in range(5)})
        assert not probing.done()
        probing.cancel()
        await asyncio.wait([probing])
        assert await asyncio.gather(*(predictors.look(each) for each in addresses)) == [None] * 5
        assert len(predictors._leases) == 1
        await predictors.close()
