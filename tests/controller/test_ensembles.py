"""Ensembles: applied, switched, rolled back, split, served in another way and deleted, with real
predictors and an aggregator that many callers ask meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.store.port import Kind
from controller.store.sqlite import SqliteStore
from tests.aggregator.serving import Aggregated, aggregating, unpacked
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.artifacts import with_trillium_metadata as labelled
from tests.client.test_frames import Frame
from tests.controller.run_fakes import Mortal, MovableClock
from tests.controller.serving import CALL_S, Serving, serving
from tests.controller.test_discovery import SharedRuntime
from tests.oip import calling as oip
from tests.onnx_graphs import assemble, constants, logit, rows_in, scores_out, two_columns
from tests.rpc.errors import Failure, failed
from tests.waiting import eventually
from trillium import AsyncClient
from trillium.aggregator.v1 import aggregator_service_pb2 as aggregator_pb
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as controller_pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb

ROWS = iris_rows()[[0, 60, 110]]
LABELS = ("setosa", "versicolor", "virginica", "other")
NAME = "ensembles/iris"


def artifact(label: str, version: int, names: Sequence[str] = ()) -> bytes:
    """A model that answers something else than every other label and version. With `names`, which
    are "a" to "d" in any order, they are the names of its columns."""
    factor = np.float32(0.05 * version + 0.4 * LABELS.index(label))
    initializers = constants()
    initializers["weights"] = initializers["weights"] * factor
    if names:
        rows = [sorted(names).index(name) for name in names]
        initializers["weights"] = initializers["weights"][rows]
    declared = {"feature_names": json.dumps(names)} if names else {}
    nodes = [*logit(), *two_columns()]
    return labelled(
        assemble(nodes, [rows_in()], [scores_out()], initializers),
        class_label=label,
        # What a model says of its ensemble does not matter to a revision.
        ensemble="elsewhere" if label == "other" else "iris",
        class_labels=json.dumps(LABELS),
        **declared,
    )


class Ensembles:
    """A controller, its predictors, and an aggregator that follows it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.runtime = SharedRuntime()
        self.clock = MovableClock()
        self._stack = stack
        self.up: Serving
        self._references: dict[str, np.ndarray] = {}
        self._revisions: dict[int, np.ndarray] = {}

    @asynccontextmanager
    async def controlling(self, failpoints: Mortal | None = None) -> AsyncIterator[Serving]:
        store = SqliteStore(self.folder / "store.db")
        async with serving(
            self.folder,
            runtime=self.runtime,
            store=store,
            clock=self.clock,
            failpoints=failpoints,
        ) as up:
            self.up = up
            yield up

    async def register(self, label: str, version: int) -> None:
        made = artifact(label, version)
        assert await self.up.register(label, made, label) == version
        name = f"{label}@{version}"
        self._references[name] = reference_positive_probabilities(made, ROWS, 1)

    async def apply(self, *models: str, id: str = "iris", **fields: Any) -> pb.Ensemble:
        call = self.up.ensembles.ApplyEnsemble(request(*models, id=id, **fields), timeout=CALL_S)
        answer: pb.Ensemble = await call
        return answer

    async def plan(self, *models: str, **fields: Any) -> pb.PlanEnsembleResponse:
        plan = pb.PlanEnsembleRequest(apply=request(*models, **fields))
        answer: pb.PlanEnsembleResponse = await self.up.ensembles.PlanEnsemble(plan, timeout=CALL_S)
        return answer

    async def update(self, **fields: Any) -> pb.Ensemble:
        update = pb.UpdateEnsembleRequest(name=NAME, **fields)
        answer: pb.Ensemble = await self.up.ensembles.UpdateEnsemble(update, timeout=CALL_S)
        return answer

    async def scale(self, replicas: int) -> pb.Ensemble:
        return await self.update(classes=[pb.ClassUpdate(replica_count=replicas)])

    async def roll_back(self, revision: int = 0) -> pb.Ensemble:
        back = pb.RollBackEnsembleRequest(name=NAME, revision=revision)
        answer: pb.Ensemble = await self.up.ensembles.RollBackEnsemble(back, timeout=CALL_S)
        return answer

    async def get(self) -> pb.Ensemble:
        answer: pb.Ensemble = await self.up.ensembles.GetEnsemble(
            pb.GetEnsembleRequest(name=NAME), timeout=CALL_S
        )
        return answer

    async def delete(self, **fields: Any) -> pb.DeleteEnsembleResponse:
        answer: pb.DeleteEnsembleResponse = await self.up.ensembles.DeleteEnsemble(
            pb.DeleteEnsembleRequest(name=NAME, **fields), timeout=CALL_S
        )
        return answer

    async def revisions(self) -> list[pb.EnsembleRevision]:
        listing = pb.ListEnsembleRevisionsRequest(name=NAME)
        answer = await self.up.ensembles.ListEnsembleRevisions(listing, timeout=CALL_S)
        return list(answer.revisions)

    async def deployments(self) -> list[deployment_pb.Deployment]:
        """Those that are not terminated."""
        listed = await self.up.stub.ListDeployments(
            controller_pb.ListDeploymentsRequest(), timeout=CALL_S
        )
        gone = deployment_pb.STATE_TERMINATED
        return [each for each in listed.deployments if each.state != gone]

    async def right(self, revision: int) -> np.ndarray:
        """What a revision must answer, by ONNX Runtime alone."""
        if revision not in self._revisions:
            named = pb.GetEnsembleRevisionRequest(name=f"{NAME}/revisions/{revision}")
            found = await self.up.ensembles.GetEnsembleRevision(named, timeout=CALL_S)
            columns = [f"{each.model}@{each.model_version}" for each in found.classes]
            self._revisions[revision] = np.stack([self._references[c] for c in columns], axis=1)
        return self._revisions[revision]


def request(*models: str, id: str = "iris", **fields: Any) -> pb.ApplyEnsembleRequest:
    """That an ensemble have these models, such as "setosa@2" or the newest "setosa"."""
    pairs = [model.partition("@")[::2] for model in models]
    classes = [pb.ApplyClass(model=name, model_version=int(number or 0)) for name, number in pairs]
    return pb.ApplyEnsembleRequest(ensemble_id=id, classes=classes, **fields)


async def refused(call: Any, kind: str) -> Failure:
    """What a call that must fail with that code and reason says."""
    failure = await failed(call)
    assert f"{failure.code}/{failure.reason}" == kind, failure
    return failure


def shares(ensemble: pb.Ensemble) -> dict[int, int]:
    return {each.revision: each.percent for each in ensemble.traffic}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Ensembles]:
    async with AsyncExitStack() as stack:
        world = Ensembles(tmp_path, stack)
        stack.push_async_callback(world.runtime.end)
        await stack.enter_async_context(world.controlling())
        for label in LABELS:
            await world.register(label, 1)
        yield world


@pytest.fixture
async def door(world: Ensembles) -> AsyncIterator[Aggregated]:
    async with aggregating(
        ready=False, predictors=(), controller=world.up.controller.address
    ) as served:
        yield served


FIRST = ("setosa", "versicolor", "virginica")


async def answer_is_right(world: Ensembles, door: Aggregated, **fields: Any) -> int:
    """Ask once, and check the answer for the revision that it names; returns that."""
    answer = await door.predict(ROWS, **fields)
    expected = await world.right(answer.revision)
    assert np.allclose(unpacked(answer.probabilities), expected, atol=1e-6)
    return int(answer.revision)


async def test_an_ensemble_is_applied_and_answers_as_its_revision(
    world: Ensembles, door: Aggregated
) -> None:
    applied = await world.apply(*FIRST, note="the first one")
    assert applied.state == pb.ENSEMBLE_STATE_SERVING
    assert shares(applied) == {1: 100}
    assert [each.ready_count for each in applied.classes] == [1, 1, 1]
    await door.until_ready()
    assert await answer_is_right(world, door) == 1
    # Not once more.
    again = await world.apply(*FIRST)
    assert again == applied
    # The order of the classes is that of the revision, not that of the models.
    assert (await world.apply("virginica", "setosa")).last_revision == 2
    await eventually(lambda: door.aggregator.roster.class_labels == ("virginica", "setosa"))
    assert await answer_is_right(world, door) == 2
    assert [each.note for each in await world.revisions()] == ["", "the first one"]


async def test_no_answer_mixes_revisions_and_no_call_fails(
    world: Ensembles, door: Aggregated
) -> None:
    for label in FIRST:
        await world.register(label, 2)
    await world.apply(*[f"{label}@1" for label in FIRST], rollback_window_s=0.2)
    await door.until_ready()
    answered: Counter[int] = Counter()
    begun = 0
    """How many times answers were counted anew."""
    ends = asyncio.Event()

    async def calling() -> None:
        while not ends.is_set():
            counted = begun
            revision = await answer_is_right(world, door)
            if counted == begun:
                answered[revision] += 1

    callers = [asyncio.create_task(calling()) for _ in range(64)]

    async def serves(revision: int) -> None:
        """Callers get that revision, and no other one any more."""
        nonlocal begun
        await eventually(lambda: answered[revision] > 0 or any(c.done() for c in callers))
        # Calls that are under way may have been admitted before the switch.
        begun += 1
        answered.clear()
        await eventually(lambda: answered[revision] > 64 or any(c.done() for c in callers))
        assert answered.keys() == {revision}
        answered.clear()

    steps = [
        ("setosa@2", "versicolor@1", "virginica@1"),
        ("setosa@2", "versicolor@2", "virginica@2"),
        ("setosa@2", "versicolor@2", "virginica@2", "other@1"),
        ("virginica@2", "setosa@2", "other@1"),
        ("other@1", "setosa@2", "virginica@2"),
    ]
    try:
        for number, models in enumerate(steps, 2):
            assert shares(await world.apply(*models)) == {number: 100}
            await serves(number)
        assert shares(await world.roll_back(1)) == {1: 100}
        await serves(1)
        await world.scale(4)
        assert [each.ready_count for each in (await world.get()).classes] == [4, 4, 4]
        await serves(1)
        await world.scale(1)
        await serves(1)
        limit = deployment_pb.Limits(memory_bytes=2**28)
        await world.update(classes=[pb.ClassUpdate(class_label="setosa", limits=limit)])
        await serves(1)
    finally:
        ends.set()
        await asyncio.gather(*callers)


async def test_a_rollback_within_the_window_loads_nothing(
    world: Ensembles, door: Aggregated
) -> None:
    await world.register("setosa", 2)
    await world.apply("setosa@1", *FIRST[1:])
    rolled = await world.apply("setosa@2", *FIRST[1:])
    assert list(rolled.resting_revisions) == [1]
    there = {each.name for each in await world.deployments()}
    assert len(there) == 4
    back = await world.roll_back()
    assert shares(back) == {1: 100}
    assert {each.name for each in await world.deployments()} == there
    await door.until_ready()
    await eventually(lambda: door.aggregator.ensembles.all()[0].shares == ((1, 100),))
    assert await answer_is_right(world, door) == 1
    # What rests may be asked by number, until its time is over.
    assert await answer_is_right(world, door, revision=2) == 2
    world.clock.move(601)
    # So that somebody looks at the clock.
    await world.apply("other", id="alarm")
    await eventually(lambda: [plan.revision for plan in plans(door)] == [1])
    resting = door.predict(ROWS, revision=2, ensemble="iris")
    error = await refused(resting, "NOT_FOUND/REVISION_NOT_FOUND")
    assert "loaded: 1" in error.message


def plans(door: Aggregated) -> Any:
    """Those of "iris"."""
    return next(each for each in door.aggregator.ensembles.all() if each.name == "iris").plans


async def test_shares_of_revisions_are_kept_and_sticky(world: Ensembles, door: Aggregated) -> None:
    await world.register("setosa", 2)
    await world.apply("setosa@1", *FIRST[1:])
    half = [pb.TrafficShare(revision=1, percent=50), pb.TrafficShare(revision=0, percent=50)]
    split = await world.apply("setosa@2", *FIRST[1:], traffic=half)
    assert shares(split) == {1: 50, 2: 50}
    await eventually(lambda: len(plans(door)) == 2)
    await door.until_ready()
    await eventually(lambda: len(door.aggregator.ensembles.all()[0].shares) == 2)
    given = Counter([await answer_is_right(world, door) for _ in range(200)])
    assert given.keys() == {1, 2}
    assert min(given.values()) > 50
    for key in ("ann", "bob", "cleo", "dan", "eve", "fay"):
        sticky = (("x-sticky-key", key),)
        of_key = {await answer_is_right(world, door, metadata=sticky) for _ in range(5)}
        assert len(of_key) == 1
    # The Open Inference Protocol knows a revision as a version.
    for version in ("1", "2"):
        question = oip.question(ROWS, "iris", version=version)
        inferred = await oip.call(door.channel, "ModelInfer", question)
        assert inferred.model_version == version
        right = await world.right(int(version))
        assert np.allclose(oip.numbers(inferred), right, atol=1e-6)
    # Two names of one revision: that of the request, and its number.
    twice = [pb.TrafficShare(revision=0, percent=60), pb.TrafficShare(revision=2, percent=40)]
    assert shares(await world.apply("setosa@2", *FIRST[1:], traffic=twice)) == {2: 100}
    assert shares(await world.update(traffic=half_each(1, 2))) == {1: 50, 2: 50}
    all_of_it = [pb.TrafficShare(revision=2, percent=100)]
    assert shares(await world.update(traffic=all_of_it)) == {2: 100}


def half_each(*revisions: int) -> list[pb.TrafficShare]:
    return [pb.TrafficShare(revision=each, percent=50) for each in revisions]


async def test_a_revision_that_cannot_be_prepared_fails_and_the_other_goes_on(
    world: Ensembles, door: Aggregated
) -> None:
    await world.register("setosa", 2)
    await world.apply("setosa@2", *FIRST[1:], rollback_window_s=0)
    await world.apply("setosa@1", *FIRST[1:])
    await eventually(lambda: has_deployments(world, 3))
    gone = catalog_pb.DeleteModelVersionRequest(name="setosa", version=2)
    await world.up.catalog.DeleteModelVersion(gone, timeout=CALL_S)
    error = await refused(world.roll_back(1), "FAILED_PRECONDITION/ENSEMBLE_FAILED")
    assert "setosa" in error.message
    assert "no version" in error.message
    now = await world.get()
    assert shares(now) == {2: 100}
    assert now.state == pb.ENSEMBLE_STATE_SERVING
    failed = (await world.revisions())[-1]
    assert failed.state == pb.REVISION_STATE_FAILED
    assert "setosa" in failed.failure
    await door.until_ready()
    assert await answer_is_right(world, door) == 2
    await eventually(lambda: has_deployments(world, 3))


async def has_deployments(world: Ensembles, count: int) -> bool:
    return len(await world.deployments()) == count


async def test_its_deployments_are_its_own(world: Ensembles) -> None:
    applied = await world.apply("setosa")
    name = applied.classes[0].deployment
    id = name.removeprefix("deployments/")
    assert (await world.up.get(id)).owner == NAME
    for verb in (world.up.terminate, world.up.unload, world.up.load):
        error = await refused(verb(id), "FAILED_PRECONDITION/ILLEGAL_STEP")
        assert "ensemble 'iris'" in error.message
    error = await refused(world.up.update(id, replica_count=2), "FAILED_PRECONDITION/ILLEGAL_STEP")
    assert "ensemble 'iris'" in error.message


async def test_it_is_deleted_with_all_that_it_had_and_may_begin_anew(
    world: Ensembles, door: Aggregated
) -> None:
    await world.apply(*FIRST)
    await door.until_ready()
    planned = await world.delete(validate_only=True)
    assert len(planned.deployments) == 3
    assert shares(await world.get()) == {1: 100}
    assert (await world.delete()).deployments == planned.deployments
    assert await world.deployments() == []
    await refused(world.get(), "NOT_FOUND/ENSEMBLE_NOT_FOUND")
    await refused(world.delete(), "NOT_FOUND/ENSEMBLE_NOT_FOUND")
    again = await world.apply(*FIRST)
    assert shares(again) == {1: 100}
    await door.until_ready()
    assert await answer_is_right(world, door) == 1


async def test_it_is_unloaded_and_loaded(world: Ensembles, door: Aggregated) -> None:
    await world.apply(*FIRST)
    await door.until_ready()
    unloaded = await world.update(target=deployment_pb.TARGET_CREATED)
    assert unloaded.state == pb.ENSEMBLE_STATE_CREATED
    assert shares(unloaded) == {}
    await eventually(lambda: not door.aggregator.ensembles.is_ready)
    loaded = await world.update(target=deployment_pb.TARGET_LOADED)
    assert shares(loaded) == {1: 100}
    await door.until_ready()
    assert await answer_is_right(world, door) == 1


async def test_a_new_controller_finds_what_served(world: Ensembles, door: Aggregated) -> None:
    await world.register("setosa", 2)
    await world.apply("setosa@1", *FIRST[1:])
    await world.apply("setosa@2", *FIRST[1:])
    await world.roll_back()
    before = await world.get()
    async with world.controlling():
        assert await world.get() == before
        # One more change by the second of two controllers.
        assert shares(await world.roll_back()) == {2: 100}


async def test_a_plan_changes_nothing(world: Ensembles) -> None:
    await world.register("setosa", 2)
    created = await world.plan("setosa@1", "versicolor")
    assert created.changes
    assert list(created.started) == ["setosa@1", "versicolor@1"]
    await world.apply("setosa@1", "versicolor")
    store = SqliteStore(world.folder / "store.db")
    await store.open()
    before = [await store.revisions(kind) for kind in (Kind.ENSEMBLE, Kind.DEPLOYMENT)]
    plan = await world.plan("virginica", "setosa@2")
    assert plan.is_new_revision
    assert plan.revision == 2
    assert list(plan.differences) == [
        "class virginica is added: virginica@1",
        "class setosa: setosa@1 -> setosa@2",
        "class versicolor is removed: versicolor@1",
        "traffic: 100 % revision 1 -> 100 % revision 2",
    ]
    assert list(plan.started) == ["virginica@1", "setosa@2"]
    assert sorted(plan.stopped) == ["setosa@1", "versicolor@1"]
    assert not (await world.plan("setosa@1", "versicolor")).changes
    assert [await store.revisions(kind) for kind in (Kind.ENSEMBLE, Kind.DEPLOYMENT)] == before
    await store.close()


async def test_wrong_requests_are_refused_by_name(world: Ensembles) -> None:
    await world.register("setosa", 2)
    applied = await world.apply("setosa@1", "versicolor")
    invalid = "INVALID_ARGUMENT/INVALID_REQUEST"

    async def says(call: Any, kind: str, *words: str) -> None:
        error = await refused(call, kind)
        for word in words:
            assert word in error.message, error.message

    await says(world.apply("nothing"), "NOT_FOUND/MODEL_NOT_FOUND", "classes[0].model", "nothing")
    await says(world.apply("setosa@9"), "NOT_FOUND/MODEL_NOT_FOUND", "no version 9", "1 to 2")
    await says(world.apply("setosa", "setosa"), invalid, "classes[1].model", "each class once")
    await says(world.apply(), invalid, "classes", "expected 1 to 1000")
    await says(world.apply("setosa", id=""), invalid, "ensemble_id", "missing")
    await says(world.apply("setosa", id="a/b"), invalid, "ensemble_id", "'a/b'")
    wrong = [pb.TrafficShare(revision=1, percent=60), pb.TrafficShare(revision=0, percent=30)]
    await says(world.apply("setosa", traffic=wrong), invalid, "adds up to 90 %")
    unknown = [pb.TrafficShare(revision=7, percent=100)]
    await says(
        world.update(traffic=unknown), "NOT_FOUND/REVISION_NOT_FOUND", "revision 7", "never made"
    )
    await says(world.apply("setosa", etag="x"), "ABORTED/ENSEMBLE_CHANGED", applied.etag)
    await says(world.roll_back(), "NOT_FOUND/REVISION_NOT_FOUND", "no other revision")
    await says(world.update(), invalid, "changes nothing")
    many = [pb.ClassUpdate(class_label="rose", replica_count=65)]
    await says(world.update(classes=many), invalid, "'rose'", "setosa, versicolor")
    label = pb.ApplyClass(class_label="rose", model="setosa")
    mislabelled = pb.ApplyEnsembleRequest(ensemble_id="iris", classes=[label])
    await says(
        world.up.ensembles.ApplyEnsemble(mislabelled, timeout=CALL_S),
        invalid,
        "recognizes 'setosa'",
    )
    assert await world.get() == applied


async def test_several_ensembles_of_the_same_models_do_not_disturb_each_other(
    world: Ensembles, door: Aggregated
) -> None:
    await world.apply(*FIRST)
    await world.apply("setosa", "other", id="mixed")
    await eventually(lambda: len(door.aggregator.ensembles.all()) == 2)
    await eventually(lambda: all(each.is_ready for each in door.aggregator.ensembles.all()))
    answer = await door.predict(ROWS, ensemble="mixed")
    assert list(answer.class_labels) == ["setosa", "other"]
    assert answer.ensemble == "mixed"
    listed = await door.ensembles()
    assert [(each.name, [r.revision for r in each.revisions]) for each in listed] == [
        ("iris", [1]),
        ("mixed", [1]),
    ]
    metadata = await door.stub.GetMetadata(
        aggregator_pb.GetMetadataRequest(ensemble="mixed"), timeout=CALL_S
    )
    assert metadata.revision == 1
    await world.delete()
    await eventually(lambda: [e.name for e in door.aggregator.ensembles.all()] == ["mixed"])
    assert await door.is_serving("ensembles/mixed")
    assert not await door.is_serving("ensembles/iris")
    assert list((await door.predict(ROWS)).class_labels) == ["setosa", "other"]


async def test_a_request_without_a_name_is_for_the_only_ensemble_that_was_applied(
    world: Ensembles, door: Aggregated
) -> None:
    await world.up.load("stray", model="other")
    await eventually(lambda: [e.name for e in door.aggregator.ensembles.all()] == ["elsewhere"])
    await world.apply("setosa", "versicolor")
    await eventually(lambda: door.is_serving("ensembles/iris"))
    assert list((await door.predict(ROWS)).class_labels) == ["setosa", "versicolor"]
    await world.apply("setosa", id="second")
    await eventually(lambda: door.is_serving("ensembles/second"))
    error = await refused(door.predict(ROWS), "INVALID_ARGUMENT/INVALID_REQUEST")
    assert "'elsewhere', 'iris', 'second'" in error.message


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("what", "count"), [("write", 1), ("write", 2), ("write", 3), ("command", 1), ("command", 2)]
)
async def test_another_controller_finishes_a_rollout_that_a_dead_one_began(
    tmp_path: Path, side: str, what: str, count: int
) -> None:
    async with AsyncExitStack() as stack:
        world = Ensembles(tmp_path, stack)
        stack.push_async_callback(world.runtime.end)
        async with world.controlling():
            for label, version in (("setosa", 1), ("setosa", 2), ("versicolor", 1)):
                await world.register(label, version)
            await world.apply("setosa@1", "versicolor", rollback_window_s=0)
        mortal = Mortal(f"{side}-ensemble-{what}", count)
        async with world.controlling(mortal):
            await world.apply("setosa@2", "versicolor", no_wait=True)
            await mortal.reached()
        async with world.controlling():
            await eventually(lambda: serves_alone(world, 2))
            await eventually(lambda: has_deployments(world, 2))
            running = {each.deployment for each in await world.runtime.look()}
            named = {each.name.removeprefix("deployments/") for each in await world.deployments()}
            assert running == named


async def serves_alone(world: Ensembles, revision: int) -> bool:
    return shares(await world.get()) == {revision: 100}


async def test_columns_by_name_are_answered_by_the_revision_whose_order_they_were_put_in(
    world: Ensembles, door: Aggregated
) -> None:
    names = ("a", "b", "c", "d")
    for version, order in ((2, names), (3, names[::-1])):
        made = artifact("setosa", 2, names=order)
        assert await world.up.register("setosa", made, "setosa") == version
    right = reference_positive_probabilities(artifact("setosa", 2, names=names), ROWS, 1)
    await world.apply("setosa@2")
    await door.until_ready()
    frame = Frame(list(names), ROWS)

    class SwitchedMeanwhile(AsyncClient):
        """Between the question for the names and that for the rows, another revision serves."""

        async def _prepared(self, *args: Any, **options: Any) -> Any:
            prepared = await super()._prepared(*args, **options)
            await world.apply("setosa@3")
            await eventually(lambda: door.aggregator.ensembles.all()[0].shares == ((2, 100),))
            return prepared

    async with SwitchedMeanwhile(door.aggregator.address) as client:
        for revision in (1, 2):
            answer = await client.predict(frame)
            assert answer.revision == revision
            assert np.allclose(answer.probabilities[:, 0], right, atol=1e-6)


async def test_a_client_that_is_pinned_stays_with_its_revision(
    world: Ensembles, door: Aggregated
) -> None:
    await world.apply("setosa", "versicolor")
    await door.until_ready()
    async with AsyncClient(door.aggregator.address) as client:
        known = await client.pin()
        await world.apply("setosa")
        await eventually(lambda: door.aggregator.ensembles.all()[0].shares == ((2, 100),))
        answer = await client.predict(ROWS)
    assert (known.revision, answer.revision) == (1, 1)
    assert answer.class_labels == ("setosa", "versicolor")
