"""Two controllers on one store, which share what runs: killed, stopped in their tracks, at odds."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.acceptance.containers import containers_on
from tests.acceptance.controllers import Control, controlling, outcome_of
from tests.acceptance.outliving import end_all, pids_in
from tests.freezing import freeze
from tests.store.mongod import Mongod
from tests.waiting import eventually
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

LOADED, CREATED = deployment_pb.STATE_LOADED, deployment_pb.STATE_CREATED
STOPPED_S = 20.0
"""For so long one of two controllers is stopped; its run is taken over after 4 s."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What two controllers share."""

    store: str
    module: str
    """What to run as a controller."""
    arguments: Sequence[str]
    running: Callable[[], Awaitable[Mapping[str, Any]]]
    """What runs, as it is told apart, by `deployment.instance.attempt`."""


@pytest.fixture
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    """A store and a runtime, such as "mongodb, docker"."""
    store, _, runtime = request.param.partition(", ")
    with ExitStack() as stack:
        uri = f"sqlite:{tmp_path / 'store.db'}"
        if store == "mongodb":
            uri = stack.enter_context(Mongod(tmp_path / "mongod", replica_set=True)).uri
        if runtime == "docker":
            # Asked for here, so that only those who need an engine look for one.
            engine = request.getfixturevalue("engine")
            containers = stack.enter_context(containers_on(engine))
            yield Shared(uri, "controller", containers.options, containers.running)
            return
        # Its path is short enough for sockets.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pair-")))
        stack.callback(end_all, folder)

        async def running() -> Mapping[str, Any]:
            return pids_in(folder)

        yield Shared(uri, "tests.acceptance.outliving", (str(folder),), running)


ON_MONGODB = [
    pytest.param("mongodb, processes", marks=pytest.mark.thorough),
    pytest.param("mongodb, docker", marks=[pytest.mark.engine, pytest.mark.timeout(240)]),
]
EVERYWHERE = ["sqlite, processes", *ON_MONGODB]


@asynccontextmanager
async def pair(shared: Shared, models: Path) -> AsyncIterator[list[Control]]:
    """Two controllers, one after the other."""
    async with AsyncExitStack() as stack:
        controls = []
        for _ in range(2):
            command = (shared.store, f"--models-dir={models}", *shared.arguments)
            each = controlling(*command, module=shared.module)
            controls.append(await stack.enter_async_context(each))
        yield controls


async def history(control: Control, id: str) -> list[pb.DeploymentEvent]:
    request = pb.ListDeploymentEventsRequest(name=f"deployments/{id}", page_size=500)
    answer = await control.deployments.ListDeploymentEvents(request, timeout=60)
    return list(answer.events)


def check_history(events: list[pb.DeploymentEvent]) -> None:
    """That each event follows from the one before: no write was made on what was stale."""
    assert [each.number for each in events] == list(range(1, len(events) + 1))
    phases: dict[int, str] = {}
    attempts: dict[int, int] = {}
    target = ""
    for each in events:
        if not each.HasField("slot"):
            assert each.before == target
            target = each.after
            continue
        assert each.before == phases.get(each.slot, "absent")
        assert each.attempt >= attempts.get(each.slot, 0)
        phases[each.slot], attempts[each.slot] = each.after, each.attempt


# Not on SQLite: who is stopped in the middle of a transaction keeps the file locked.
@pytest.mark.parametrize("shared", ON_MONGODB, indirect=True)
async def test_a_controller_that_was_stopped_changes_nothing_when_it_goes_on(
    shared: Shared, models: Path
) -> None:
    async with pair(shared, models) as (stopped, working):
        await stopped.load("a1", model="iris-setosa")
        await stopped.load("a2", model="iris-setosa", no_wait=True)
        order = run_pb.CreateRunRequest(run_id="r1", model="iris-setosa", dataset="iris")
        ordered = asyncio.ensure_future(outcome_of(stopped.runs.CreateRun(order, timeout=200)))

        async def is_under_way() -> bool:
            get = run_pb.GetRunRequest(name="runs/r1")
            return await outcome_of(working.runs.GetRun(get, timeout=60)) is grpc.StatusCode.OK

        await eventually(is_under_way)
        # In the middle of a load, and of a run.
        freeze(stopped.server.pid)
        began = asyncio.get_running_loop().time()
        await working.unload("a1")
        assert (await working.load("a2")).state == LOADED
        await working.terminate("a2")
        await working.load("a3", model="iris-versicolor", newest_version=True)
        run = await working.runs.CreateRun(order, timeout=60)
        assert run.state == run_pb.RUN_STATE_SUCCEEDED
        attempts = run.attempt_count
        left_s = STOPPED_S - (asyncio.get_running_loop().time() - began)
        if left_s > 0:
            await asyncio.sleep(left_s)

        async def is_calm() -> bool:
            """The run's own predictor is removed after the run has ended."""
            return list(await shared.running()) == ["a1.0.1", "a3.0.1"]

        await eventually(is_calm)
        running = await shared.running()
        before = [await working.get(id) for id in ("a1", "a2", "a3")]
        stopped.server.signal(signal.SIGCONT)

        async def goes_on() -> bool:
            """Whether it has come to its senses; what it was about to do it has tried by then."""
            asked = stopped.load("a4", model="iris-virginica")
            return await outcome_of(asked) is grpc.StatusCode.OK

        await eventually(goes_on, 60)
        await stopped.terminate("a4")
        # Its connection to the store may have been given up meanwhile.
        assert await ordered in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        assert [each.state for each in before] == [
            CREATED,
            deployment_pb.STATE_TERMINATED,
            LOADED,
        ]
        for control in (stopped, working):
            now = [await control.get(id) for id in ("a1", "a2", "a3")]
            assert [each.revision for each in now] == [each.revision for each in before]
            again = await control.runs.GetRun(run_pb.GetRunRequest(name="runs/r1"), timeout=60)
            assert (again.state, again.attempt_count) == (run.state, attempts)
        assert await shared.running() == running
        for id in ("a1", "a2", "a3", "a4", "run-r1"):
            check_history(await history(working, id))


@pytest.mark.parametrize("shared", EVERYWHERE, indirect=True)
async def test_two_controllers_at_once_have_one_container_for_each_instance(
    shared: Shared, models: Path
) -> None:
    async with pair(shared, models) as controls:
        seen: list[Mapping[str, Any]] = []
        seen_enough = asyncio.Event()

        async def watch() -> None:
            while not seen_enough.is_set():
                seen.append(await shared.running())
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        commands = [
            (control.load(f"b{number}", model="iris-setosa"))
            for number in range(2)
            for control in controls
        ]
        codes = await asyncio.gather(*(outcome_of(each) for each in commands))
        assert set(codes) == {grpc.StatusCode.OK}
        at_odds: list[Any] = []
        for number in range(2):
            for _ in range(3):
                at_odds += [controls[0].unload(f"b{number}"), controls[1].load(f"b{number}")]
        answers = await asyncio.gather(*(outcome_of(each) for each in at_odds))
        assert set(answers) <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
        last = await asyncio.gather(*(controls[0].load(f"b{number}") for number in range(2)))
        assert {each.state for each in last} == {LOADED}
        seen_enough.set()
        await watching
        for each in seen:
            instances = [name.rpartition(".")[0] for name in each]
            assert len(instances) == len(set(instances)), each
        assert list(seen[-1]) == ["b0.0.1", "b1.0.1"]
        for number in range(2):
            for control in controls:
                check_history(await history(control, f"b{number}"))


@pytest.mark.parametrize("shared", EVERYWHERE, indirect=True)
async def test_what_a_killed_controller_left_is_taken_over_as_it_is(
    shared: Shared, models: Path
) -> None:
    async with pair(shared, models) as (killed, heir):
        await killed.load("c1", model="iris-setosa", no_wait=True)
        loaded = await killed.load("c2", model="iris-setosa")
        before = (await shared.running())["c2.0.1"]
        killed.server.signal(signal.SIGKILL)
        await killed.server.ended()
        assert (await heir.load("c1")).state == LOADED
        now = await heir.get("c2")
        assert (now.state, now.revision) == (LOADED, loaded.revision)
        running = await shared.running()
        assert list(running) == ["c1.0.1", "c2.0.1"]
        assert running["c2.0.1"] == before
