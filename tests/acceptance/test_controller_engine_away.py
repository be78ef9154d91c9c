"""An engine that is away for half a minute, as the callers of a whole controller notice it."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.containers import Containers, containers_on
from tests.acceptance.controllers import Control, Traffic, aggregating, controlling, traffic
from tests.acceptance.iris import IRIS, ROW, answer_of, ensemble
from tests.freezing import freeze
from tests.runtime.engine import ApartEngine
from tests.runtime.serving import is_running
from tests.waiting import eventually
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

# The first one waits for an engine that gets its image.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

AWAY_S = 30.0


def stop(engine: ApartEngine) -> None:
    """As an upgrade does: containers run on."""
    pid = engine.pid
    engine.send(signal.SIGTERM)
    give_up = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < give_up, "the engine did not end"
        time.sleep(0.01)


def hang(engine: ApartEngine) -> None:
    freeze(engine.pid)


def go_on(engine: ApartEngine) -> None:
    engine.send(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Scene:
    """A controller on an engine, an ensemble that serves, and callers who ask it all the time."""

    control: Control
    containers: Containers
    seen: Traffic

    async def is_reachable(self) -> bool:
        """What the deployments say of the engine."""
        (condition,) = (await self.control.get("setosa")).conditions
        assert condition.type == "RUNTIME_REACHABLE"
        assert condition.holds or "engine" in condition.detail
        return condition.holds

    async def is_unreachable(self) -> bool:
        return not await self.is_reachable()

    async def is_done(self) -> bool:
        """Whether what was asked for while the engine was away has been done."""
        states = [(await self.control.get(id)).state for id in ("later", "spare")]
        return states == [deployment_pb.STATE_LOADED, deployment_pb.STATE_TERMINATED]


@asynccontextmanager
async def scene(engine: ApartEngine, models: Path, folder: Path) -> AsyncIterator[Scene]:
    """It plays in the engine's network; from here it is reached by sockets in `folder`."""
    with containers_on(engine.base_url) as containers:
        options = (*containers.options, f"--models-dir={models}")
        async with controlling(
            f"sqlite:{folder / 'store.db'}",
            *options,
            listen=f"unix:{folder}/controller",
            network=engine.network,
        ) as control:
            await ensemble(control)
            await control.load("spare", model="iris-setosa")
            async with (
                aggregating(
                    control, *IRIS, listen=f"unix:{folder}/aggregator", network=engine.network
                ) as address,
                traffic(address, ROW, answer_of(models), callers=4) as seen,
            ):
                yield Scene(control, containers, seen)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="away-") as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("leave", "come_back"),
    [(stop, ApartEngine.start), (hang, go_on)],
    ids=["stopped", "hangs"],
)
async def test_an_engine_may_be_away_for_half_a_minute(
    apart: ApartEngine,
    models: Path,
    folder: Path,
    leave: Callable[[ApartEngine], None],
    come_back: Callable[[ApartEngine], None],
) -> None:
    apart.start()
    async with scene(apart, models, folder) as play:
        control, seen = play.control, play.seen
        await seen.goes_on()
        assert await play.is_reachable()
        before = [await control.get(label) for label in IRIS]
        pids = await play.containers.pids()
        assert len(pids) == 4
        try:
            await asyncio.to_thread(leave, apart)
            left = time.monotonic()
            # What is asked for is written down, and waits.
            later = await control.load("later", model="iris-versicolor", no_wait=True)
            assert later.state != deployment_pb.STATE_LOADED
            await control.terminate("spare", no_wait=True)
            await eventually(play.is_unreachable)
            told = time.monotonic()
            (server,) = (
                await control.deployments.ListServers(pb.ListServersRequest(), timeout=60)
            ).servers
            assert not server.reachable
            await seen.goes_on_until(left + AWAY_S)
            assert await play.is_unreachable()
            assert not await play.is_done()
            assert all(is_running(pid) for pid in pids.values())
            away = [await control.get(label) for label in IRIS]
            assert [each.revision for each in away] == [each.revision for each in before]
        finally:
            await asyncio.to_thread(come_back, apart)
        back = time.monotonic()
        await eventually(play.is_done, 90)
        done = time.monotonic()
        await seen.goes_on()
        assert await play.is_reachable()
        pause_s = seen.longest_pause_s(left, done)
        print(f"away for {back - left:.1f} s; told after {told - left:.1f} s")
        print(f"what was asked for was done {done - back:.1f} s after it came back")
        print(f"{seen.count} predictions, none failed; longest pause {pause_s:.2f} s")
        seen.check()
        # What served was left alone, there is nothing twice, and nothing is left of the spare one.
        now = [await control.get(label) for label in IRIS]
        assert [each.revision for each in now] == [each.revision for each in before]
        del pids["spare.0.1"]
        after = await play.containers.pids()
        assert {name: after.get(name) for name in pids} == pids
        assert set(after) - set(pids) == {"later.0.1"}
        assert len(await play.containers.all()) == len(after)
