"""The machine's clock is set while a controller runs: nothing ends sooner or later for that."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.deployments.actions import Action, Remove
from controller.deployments.effects import Effects, ReconcilerPorts
from controller.deployments.inventory import Inventory
from controller.deployments.probing import Probes, ProbingPolicy
from controller.deployments.repository import Deployments
from controller.discovery.snapshot import Discovery
from controller.ensembles.repository import EnsembleRepository
from controller.failpoints import Failpoints
from controller.predictors import Predictors
from controller.store.port import Kind
from controller.store.records import Stored
from controller.store.sqlite import SqliteStore
from tests.controller.run_fakes import InProcessRuntime, MovableClock
from tests.controller.serving import CALL_S, MODEL, Serving, serving_flowers
from tests.controller.test_following import deployment
from tests.waiting import eventually
from trillium.clock import SteadyClock, SystemClock
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Set the machine's clock, as far as this project looks at it."""
    monkeypatch.setattr(SystemClock, "now", lambda self: datetime.now(UTC) + by)


async def heals(up: Serving, runtime: InProcessRuntime, id: str) -> None:
    """Kill the predictor of a deployment, and wait for the next one."""
    (before,) = await up.containers_of(id)
    await runtime.remove(before.id)

    async def is_whole() -> bool:
        (instance,) = (await up.get(id)).instances
        return bool(instance.attempt == before.attempt + 1 and instance.model_digest)

    await eventually(is_whole)


@pytest.mark.parametrize("hours", [-1, 2, 8 * 24])
async def test_the_machines_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    runtime = InProcessRuntime()
    async with serving_flowers(tmp_path, runtime=runtime) as up:
        await up.load("d1", model=MODEL)
        order = run_pb.CreateRunRequest(run_id="r1", model=MODEL, dataset="iris")
        await up.runs.CreateRun(order, timeout=CALL_S)
        runtime.may_create.clear()
        waits = run_pb.CreateRunRequest(run_id="r2", model=MODEL, dataset="iris", no_wait=True)
        await up.runs.CreateRun(waits, timeout=CALL_S)
        set_clock(monkeypatch, timedelta(hours=hours))
        runtime.may_create.set()
        await heals(up, runtime, "d1")
        get = run_pb.GetRunRequest(name="runs/r1")
        assert (await up.runs.GetRun(get, timeout=CALL_S)).rows_done == 150

        async def has_succeeded() -> bool:
            run = await up.runs.GetRun(run_pb.GetRunRequest(name="runs/r2"), timeout=CALL_S)
            return bool(run.state == run_pb.RUN_STATE_SUCCEEDED)

        await eventually(has_succeeded)
        assert (await up.unload("d1")).state == deployment_pb.STATE_CREATED
    # The next controller begins with the clock as it is now.
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        assert (await up.load("d1")).state == deployment_pb.STATE_LOADED


def test_a_steady_clock_goes_on_from_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteadyClock()
    before = clock.now()
    set_clock(monkeypatch, timedelta(days=-300))
    after = clock.now()
    assert timedelta() <= after - before < timedelta(minutes=1)
    assert (after.tzinfo, after.microsecond % 1000) == (UTC, 0)


async def test_a_watcher_is_silent_by_the_clock_of_the_one_who_looks(tmp_path: Path) -> None:
    store, clock = SqliteStore(tmp_path / "s.db"), MovableClock()
    await store.open()
    clock.stop()
    discovery = Discovery(store, Deployments(store, clock), EnsembleRepository(store, clock), clock)
    snapshot = {"revision": 7, "endpoints": [], "gone": {"h:1": 7}}
    await store.create(Kind.SNAPSHOT, "endpoints", snapshot)
    # Written by a controller whose clock is a day ahead, or behind.
    for id, days in (("ahead", 1), ("behind", -1)):
        seen = clock.now() + timedelta(days=days)
        await store.create(Kind.WATCHER, id, {"confirmed": 6, "seen": seen})
    assert not await discovery.is_withdrawn("h:1")
    clock.move(9)
    assert not await discovery.is_withdrawn("h:1")
    await discovery.confirm("ahead", 7)
    clock.move(2)
    # "behind" has been silent since it was first seen, and "ahead" has confirmed.
    assert await discovery.is_withdrawn("h:1")
    await store.close()


class Deaf(InProcessRuntime):
    """A runtime that answers, and does nothing."""

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        return


async def test_what_is_asked_of_the_runtime_again_has_a_pace(tmp_path: Path) -> None:
    store, clock, runtime = SqliteStore(tmp_path / "s.db"), MovableClock(), Deaf()
    await store.open()
    clock.stop()
    deployments = Deployments(store, clock)
    ports = ReconcilerPorts(
        deployments,
        runtime,
        Predictors(),
        lambda deployment, digest: asyncio.sleep(0, None),  # type: ignore[arg-type]
        Discovery(store, deployments, EnsembleRepository(store, clock), clock),
        clock,
        Failpoints({}),
    )
    probes = Probes(ports.predictors, clock, ProbingPolicy())
    effects = Effects(ports, Inventory(runtime, clock), probes)
    stored = Stored("d1", deployment("d1"), 1)

    async def pause_s(action: Action, index: int = 0) -> float:
        rest = await effects.carry_out(action, stored, index, asyncio.Event())
        assert rest is not None
        assert rest.until is not None
        return (rest.until - clock.now()).total_seconds()

    first, again = Remove("a"), Remove("b")
    assert [await pause_s(first) for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert [await pause_s(first) for _ in range(60)][-1] == 5.0
    assert await pause_s(again) == 0.05
    assert await pause_s(again, index=1) == 0.05
    assert await pause_s(again) == 0.1
    effects.forget(("d1", 0))
    assert await pause_s(again) == 0.05
    await store.close()
