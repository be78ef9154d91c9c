"""Where the predictors are: told by controllers, followed by aggregators, and confirmed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from aggregator.plans.roster import Endpoint
from controller.runtime.port import ContainerSpec
from controller.store.sqlite import SqliteStore
from tests.aggregator import serving as aggregators
from tests.aggregator.serving import aggregating
from tests.artifacts import iris_rows, reference_positive_probabilities, two_column_tensor
from tests.artifacts import with_trillium_metadata as labelled
from tests.controller.run_fakes import InProcessRuntime, MovableClock
from tests.controller.serving import CALL_S, Serving, serving
from tests.oip import calling as oip
from tests.ports import free_ports
from tests.rpc.errors import refused
from tests.waiting import eventually
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import discovery_service_pb2 as pb
from trillium.controller.v1 import run_service_pb2 as run_pb

ROW = iris_rows()[[0, 60]]
CLASSES = ("setosa", "other")
NOT_YET_S = 0.5
"""For so long it is seen that something does not happen."""


def artifact_of(label: str) -> bytes:
    """A model of one of the two classes of the ensemble "pair"."""
    return labelled(
        two_column_tensor(),
        class_label=label,
        ensemble="pair",
        class_labels=json.dumps(CLASSES),
    )


class SharedRuntime(InProcessRuntime):
    """Predictors that several controllers share, and that outlive them."""

    def __init__(self) -> None:
        super().__init__()
        self._creating = asyncio.Lock()

    async def create(self, spec: ContainerSpec) -> None:
        # There is one of each attempt, whoever asks for it.
        async with self._creating:
            await super().create(spec)

    async def close(self) -> None:
        return

    async def end(self) -> None:
        await super().close()


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store that knows the models."""
    folder = tmp_path_factory.mktemp("seed")

    async def make() -> None:
        async with serving(folder) as up:
            for label in CLASSES:
                await up.register(label, artifact_of(label), label)
            await up.register("alone", two_column_tensor(), "alone")

    asyncio.run(make())
    return folder / "store.db"


class World:
    """A store and predictors, and controllers of them that come and go."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.runtime = SharedRuntime()
        self.clock = MovableClock()
        self._stack = stack

    def controlling(self, listen: str = "127.0.0.1:0") -> Any:
        """One more controller."""
        store = SqliteStore(self.folder / "store.db")
        return serving(
            self.folder, runtime=self.runtime, store=store, clock=self.clock, listen=listen
        )

    async def controller(self) -> Serving:
        """One more controller, to the end of the test."""
        up: Serving = await self._stack.enter_async_context(self.controlling())
        return up


@pytest.fixture
async def world(seed: Path, tmp_path: Path) -> AsyncIterator[World]:
    shutil.copy(seed, tmp_path / "store.db")
    async with AsyncExitStack() as stack:
        world = World(tmp_path, stack)
        stack.push_async_callback(world.runtime.end)
        yield world


class Watcher:
    """A caller of WatchEndpoints who confirms when he likes."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.revision = 0

    async def next(self) -> list[pb.Endpoint]:
        """The endpoints of the next snapshot, whose revision must be a later one."""
        async with asyncio.timeout(60):
            snapshot = await self.call.read()
        assert snapshot.revision > self.revision
        self.revision = snapshot.revision
        return list(snapshot.endpoints)

    async def until(self, *deployments: str) -> list[pb.Endpoint]:
        """The snapshot that has just these deployments."""
        while True:
            endpoints = await self.next()
            if [each.deployment for each in endpoints] == [
                f"deployments/{id}" for id in deployments
            ]:
                return endpoints

    async def confirm(self) -> None:
        await self.call.write(pb.WatchEndpointsRequest(confirmed_revision=self.revision))


@asynccontextmanager
async def watching(
    up: Serving, watcher_id: str = "w1", ensemble: str = ""
) -> AsyncIterator[Watcher]:
    call = up.discovery.WatchEndpoints(timeout=CALL_S)
    await call.write(pb.WatchEndpointsRequest(watcher_id=watcher_id, ensemble=ensemble))
    try:
        yield Watcher(call)
    finally:
        call.cancel()


async def is_draining(up: Serving, id: str) -> bool:
    (instance,) = (await up.get(id)).instances
    return bool(instance.phase == deployment_pb.INSTANCE_PHASE_DRAINING)


async def stays_undone(task: asyncio.Future[Any]) -> bool:
    done, _ = await asyncio.wait((task,), timeout=NOT_YET_S)
    return not done


async def test_each_change_is_a_whole_snapshot_with_a_later_revision(world: World) -> None:
    up = await world.controller()
    async with watching(up) as watcher:
        assert await watcher.next() == []
        other = await up.load("o", model="other")
        (endpoint,) = await watcher.next()
        assert endpoint == pb.Endpoint(
            class_label="other",
            address=other.instances[0].address,
            model_digest=other.model_digest,
            deployment="deployments/o",
            ensemble="pair",
            class_position=1,
        )
        await up.load("s", model="setosa")
        # In the order of the ensemble's classes.
        assert [each.class_label for each in await watcher.next()] == list(CLASSES)
        await watcher.confirm()
        unloading = asyncio.ensure_future(up.unload("o"))
        assert [each.class_label for each in await watcher.next()] == ["setosa"]
        await watcher.confirm()
        await unloading
    async with watching(up) as late:
        assert [each.class_label for each in await late.next()] == ["setosa"]
        assert late.revision == watcher.revision


async def test_a_watcher_of_one_ensemble_is_told_of_no_other(world: World) -> None:
    up = await world.controller()
    await asyncio.gather(up.load("s", model="setosa"), up.load("a", model="alone"))
    async with watching(up) as everything, watching(up, "w2", "pair") as pair:
        assert {each.ensemble for each in await everything.until("a", "s")} == {"", "pair"}
        assert [each.class_label for each in await pair.until("s")] == ["setosa"]


async def test_an_unload_waits_for_every_watcher_to_confirm(world: World) -> None:
    up = await world.controller()
    await up.load("s", model="setosa")
    world.clock.stop()
    async with watching(up, "w1") as first, watching(up, "w2") as second:
        for watcher in (first, second):
            await watcher.until("s")
            await watcher.confirm()
        unloading = asyncio.ensure_future(up.unload("s"))
        for watcher in (first, second):
            await watcher.until()
        assert await stays_undone(unloading)
        await first.confirm()
        assert await stays_undone(unloading)
        (instance,) = (await up.get("s")).instances
        # The model is still there for those who do not know yet.
        assert instance.phase == deployment_pb.INSTANCE_PHASE_DRAINING
        assert instance.model_digest
        await second.confirm()
        async with asyncio.timeout(60):
            assert (await unloading).state == deployment_pb.STATE_CREATED


@pytest.mark.parametrize("ends", ["cancelled", "half-closed"])
async def test_a_watcher_that_was_cut_off_is_waited_for_until_it_was_silent_for_long(
    world: World, ends: str
) -> None:
    up = await world.controller()
    await up.load("s", model="setosa")
    async with watching(up) as watcher:
        await watcher.until("s")
        await watcher.confirm()
        if ends == "half-closed":
            # What grpc.aio's server shows at first of every stream that was cut off.
            await watcher.call.done_writing()
            assert await watcher.call.read() == aio.EOF
    world.clock.stop()
    unloading = asyncio.ensure_future(up.unload("s"))
    await eventually(lambda: is_draining(up, "s"))
    assert await stays_undone(unloading)
    world.clock.move(11)
    async with asyncio.timeout(60):
        await unloading


async def test_a_watcher_that_confirms_nothing_is_not_waited_for_for_ever(world: World) -> None:
    up = await world.controller()
    await up.load("s", model="setosa")
    async with watching(up) as watcher:
        await watcher.until("s")
        world.clock.stop()
        unloading = asyncio.ensure_future(up.unload("s"))
        await eventually(lambda: is_draining(up, "s"))
        assert await stays_undone(unloading)
        world.clock.move(15)
        async with asyncio.timeout(60):
            await unloading


async def test_a_watcher_that_takes_its_leave_is_not_waited_for(world: World) -> None:
    up = await world.controller()
    await up.load("s", model="setosa")
    async with watching(up) as watcher:
        await watcher.until("s")
        await watcher.call.write(pb.WatchEndpointsRequest(leaving=True))
        assert await watcher.call.read() == aio.EOF
        # Nobody is silent for long where no time passes.
        world.clock.stop()
        async with asyncio.timeout(60):
            await up.unload("s")


@pytest.mark.parametrize("id", ["", "a b", "../x", "x" * 65, "\n"])
async def test_a_watcher_without_a_name_is_refused(world: World, id: str) -> None:
    up = await world.controller()

    async def watch() -> None:
        async with watching(up, id) as watcher:
            await watcher.call.read()

    failure = await refused(watch)
    assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["watcher_id"])


async def test_the_predictors_of_a_run_are_its_own(world: World) -> None:
    up = await world.controller()
    await up.load("s", model="setosa")
    async with watching(up) as watcher:
        await watcher.until("s")
        revision = watcher.revision
        order = run_pb.CreateRunRequest(model="setosa", dataset="iris")
        run = await up.runs.CreateRun(order, timeout=60)
        assert run.state == run_pb.RUN_STATE_SUCCEEDED
        await watcher.confirm()
        terminating = asyncio.ensure_future(up.terminate("s"))
        assert await watcher.next() == []
        assert watcher.revision == revision + 1
        await watcher.confirm()
        await terminating


async def test_two_controllers_tell_the_same(world: World) -> None:
    first, second = await world.controller(), await world.controller()
    told: list[dict[int, list[str]]] = [{}, {}]

    async def note(up: Serving, snapshots: dict[int, list[str]]) -> None:
        async with watching(up, f"w{id(snapshots)}") as watcher:
            while True:
                endpoints = await watcher.next()
                snapshots[watcher.revision] = [each.deployment for each in endpoints]
                await watcher.confirm()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(note(up, snapshots))
            for up, snapshots in zip((first, second), told, strict=True)
        ]
        for number in range(4):
            ups = (first, second) if number % 2 else (second, first)
            await asyncio.gather(
                ups[0].load("s", model="setosa"),
                ups[1].load("o", model="other"),
                ups[0].load("a", model="alone"),
            )
            await asyncio.gather(ups[1].unload("s"), ups[0].unload("o"))
        await eventually(lambda: all(list(each.values())[-1] == ["deployments/a"] for each in told))
        for task in tasks:
            task.cancel()
    common = told[0].keys() & told[1].keys()
    assert len(common) >= 4
    assert [told[0][revision] for revision in common] == [told[1][revision] for revision in common]


def right() -> np.ndarray:
    """What the ensemble answers for `ROW`: the same model for both classes."""
    column = reference_positive_probabilities(two_column_tensor(), ROW, 1)
    return np.stack([column, column], axis=1)


def classes(served: aggregators.Aggregated) -> list[tuple[str, ...]]:
    """Those that it knows, of each ensemble."""
    return [each.current.class_labels for each in served.aggregator.ensembles.all()]


async def test_an_aggregator_follows_and_never_forgets_a_class(world: World) -> None:
    up = await world.controller()
    address = up.controller.address
    async with aggregating(ready=False, controller=address) as served:
        assert not await served.is_serving()
        await up.load("s", model="setosa")
        # The model tells of the class that has no predictor.
        await eventually(lambda: classes(served) == [CLASSES])
        assert not await served.is_serving()
        await up.load("o", model="other")
        await served.until_ready()
        assert await served.is_serving()
        answer = await served.predict(ROW)
        assert np.array_equal(aggregators.unpacked(answer.probabilities), right())
        await up.unload("o")
        failure = await aggregators.failure_of(served.predict(ROW))
        assert [each.class_label for each in failure.missing] == ["other"]
        assert not await served.is_serving()
        await up.terminate("o")
        assert served.aggregator.roster.class_labels == CLASSES
        failure = await aggregators.failure_of(served.predict(ROW))
        assert [each.class_label for each in failure.missing] == ["other"]
        await up.load("again", model="other")
        await served.until_ready()
        assert np.array_equal(await served.scores(ROW), right())


async def test_an_aggregator_keeps_what_it_knew_while_no_controller_answers(world: World) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with world.controlling(address) as up:
        await asyncio.gather(up.load("s", model="setosa"), up.load("o", model="other"))
        served = await world._stack.enter_async_context(
            aggregating(ready=False, controller=address)
        )
        await served.until_ready()
    for _ in range(20):
        assert np.array_equal(await served.scores(ROW), right())
    assert await served.is_serving()
    async with world.controlling(address) as up:
        assert np.array_equal(await served.scores(ROW), right())
        await up.load("s2", model="setosa")

        async def knows_both() -> bool:
            return await served.states_are("ready", "ready", "ready")

        await eventually(knows_both)
        # It confirms again, so that nothing waits in vain.
        async with asyncio.timeout(60):
            await up.terminate("s")
        assert np.array_equal(await served.scores(ROW), right())


async def test_an_unload_does_not_wait_for_an_aggregator_that_was_stopped(world: World) -> None:
    up = await world.controller()
    await asyncio.gather(up.load("s", model="setosa"), up.load("o", model="other"))
    async with aggregating(ready=False, controller=up.controller.address) as served:
        await served.until_ready()
    world.clock.stop()
    async with asyncio.timeout(60):
        await up.unload("s")


async def test_static_predictors_stand_beside_those_of_the_controller(world: World) -> None:
    up = await world.controller()
    by_hand = await up.load("s", model="setosa")
    async with aggregating(
        Endpoint("setosa", by_hand.instances[0].address),
        ready=False,
        controller=up.controller.address,
    ) as served:
        await eventually(lambda: classes(served) == [CLASSES])
        await up.load("o", model="other")
        await served.until_ready()
        assert np.array_equal(await served.scores(ROW), right())
        await up.load("s2", model="setosa")

        async def has_three() -> bool:
            return len(await served.listed()) == 3

        await eventually(has_three)
        await up.terminate("s2")
        assert np.array_equal(await served.scores(ROW), right())
        # What is static stays in the list, whatever the controller withdraws.
        await up.terminate("o")
        assert [each.address for each in await served.listed()] == [by_hand.instances[0].address]


async def test_predictors_come_and_go_and_no_call_fails(world: World) -> None:
    up = await world.controller()
    await asyncio.gather(up.load("s", model="setosa"), up.load("o", model="other"))
    async with aggregating(ready=False, controller=up.controller.address) as served:
        await served.until_ready()
        answered = 0

        async def call() -> None:
            nonlocal answered
            while True:
                assert np.array_equal(await served.scores(ROW), right())
                answered += 1

        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(call()) for _ in range(8)]
            for number in range(3):
                await up.load(f"t{number}", model="setosa")
                before = answered
                await eventually(lambda before=before: answered > before + 20)  # type: ignore[misc]
                await up.terminate("s" if not number else f"t{number - 1}")
                before = answered
                await eventually(lambda before=before: answered > before + 20)  # type: ignore[misc]
            for caller in callers:
                caller.cancel()
        assert answered > 120


async def test_several_ensembles_are_served_at_one_door(world: World) -> None:
    up = await world.controller()
    await up.register(
        "solo", labelled(two_column_tensor(), class_label="one", ensemble="solo"), "one"
    )
    async with aggregating(ready=False, controller=up.controller.address) as served:
        none = await aggregators.failure_of(served.predict(ROW))
        assert none.reason == "NO_METADATA"
        await asyncio.gather(
            up.load("s", model="setosa"), up.load("o", model="other"), up.load("x", model="solo")
        )
        await eventually(lambda: len(classes(served)) == 2)
        await served.until_ready()
        listed = await served.ensembles()
        assert [(each.name, tuple(each.class_labels), each.ready) for each in listed] == [
            ("pair", CLASSES, True),
            ("solo", ("one",), True),
        ]
        wide = await served.predict(ROW, ensemble="pair")
        assert (wide.ensemble, aggregators.unpacked(wide.probabilities).shape) == ("pair", (2, 2))
        assert np.array_equal(aggregators.unpacked(wide.probabilities), right())
        narrow = await served.predict(ROW, ensemble="solo")
        assert (narrow.ensemble, list(narrow.class_labels)) == ("solo", ["one"])
        for name, said in (("", "is missing"), ("wine", "is 'wine'")):
            refused = await aggregators.failure_of(served.predict(ROW, ensemble=name))
            (text,) = refused.violations.values()
            assert text == f"{said}; this aggregator serves 'pair', 'solo'"
        assert {each.ensemble for each in await served.listed()} == {"pair", "solo"}
        assert await served.is_serving("ensembles/pair")
        # One that is gone as a whole leaves the others serving, and is not forgotten.
        await up.unload("x")
        missing = await aggregators.failure_of(served.predict(ROW, ensemble="solo"))
        assert [each.class_label for each in missing.missing] == ["one"]
        assert await served.is_serving()
        assert not await served.is_serving("ensembles/solo")
        await up.load("x")
        await eventually(lambda: served.is_serving("ensembles/solo"))
        # One that has lost a class does not.
        await up.unload("o")
        assert not await served.is_serving()
        assert np.array_equal(
            aggregators.unpacked((await served.predict(ROW, ensemble="solo")).probabilities),
            right()[:, :1],
        )


async def test_a_model_of_two_ensembles_is_not_guessed(world: World) -> None:
    up = await world.controller()
    for name, ensemble, label in (("m1", "a", "b-c"), ("m2", "a-b", "c")):
        artifact = labelled(two_column_tensor(), class_label=label, ensemble=ensemble)
        await up.register(name, artifact, label)
        await up.load(name, model=name)
    async with aggregating(ready=False, controller=up.controller.address) as served:
        await eventually(lambda: classes(served) == [("b-c",), ("c",)])
        await served.until_ready()
        for name in ("a", "a-b"):
            assert (await oip.call(served.channel, "ModelMetadata", name=name)).name == name
        refused = await aggregators.failure_of(
            oip.call(served.channel, "ModelMetadata", name="a-b-c")
        )
        assert refused.reason == "MODEL_NOT_FOUND"
        assert not (await oip.call(served.channel, "ModelReady", name="a-b-c")).ready


async def test_only_the_ensembles_that_were_named_are_served(world: World) -> None:
    up = await world.controller()
    for name in ("solo", "duo"):
        artifact = labelled(two_column_tensor(), class_label="one", ensemble=name)
        await up.register(name, artifact, "one")
    await asyncio.gather(
        up.load("s", model="setosa"), up.load("x", model="solo"), up.load("y", model="duo")
    )
    async with aggregating(
        ready=False, controller=up.controller.address, ensemble=("solo", "pair")
    ) as served:
        await eventually(lambda: served.is_serving("ensembles/solo"))
        assert [each.name for each in await served.ensembles()] == ["pair", "solo"]
        assert not await served.is_serving()
        await up.load("o", model="other")
        await served.until_ready()
        assert await served.is_serving()
