"""Runs on a real store, with real predictors behind a real reconciler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.deployments.document import State
from controller.runs.labels import KnownClasses
from controller.runs.run import LIVE, RunState
from controller.store.port import Kind, Log, Record, StoreUnavailable
from controller.store.sqlite import SqliteStore
from tests.artifacts import iris_rows
from tests.controller.run_fakes import Answer, Gate, GoOn
from tests.controller.run_world import (
    CHUNK_ROWS,
    ORDER,
    QUICK,
    World,
    all_results,
    open_world,
    probabilities,
)
from tests.waiting import eventually
from trillium.errors import (
    Unreachable,
)
from trillium.rows import Rows


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def test_a_run_scores_every_row_and_leaves_nothing_but_its_results(world: World) -> None:
    # Without sweeps: whoever ends a run cleans up himself.
    async with world.working(pacing=replace(QUICK, sweep_s=60.0)) as controller:
        placed = await controller.place()
        assert (placed.state, placed.deployment) == (RunState.QUEUED, "run-r1")
        run = await controller.ended()
        assert (run.state, run.rows_done, run.attempts) == (RunState.SUCCEEDED, 150, 1)
        assert run.evaluation is not None
        results = await all_results(controller, run)
        told = np.array(probabilities(results)) >= 0.5
        true = np.array([result.label == "setosa" for result in results])
        assert run.evaluation.accuracy == np.mean(told == true) > 0.9
        assert sum(run.evaluation.confusion) == 150
        assert controller.predictors.asked == 15
        await eventually(world.is_bare)
        assert await all_results(controller, run) == results
        part = await controller.runs.results(run, 45, 20)
        assert part == results[45:65]


async def test_an_unlabelled_dataset_has_no_evaluation(world: World) -> None:
    async with world.working() as controller:
        await controller.place(order=replace(ORDER, dataset="bare"))
        run = await controller.ended()
        assert (run.state, run.evaluation) == (RunState.SUCCEEDED, None)
        assert {result.label for result in await all_results(controller, run)} == {""}


@pytest.mark.parametrize(
    ("label", "known"),
    [
        ("0", KnownClasses("", ("setosa",), are_all=False)),
        ("Setosa", KnownClasses("iris", ("setosa", "virginica"), are_all=True)),
    ],
)
async def test_labels_of_no_class_have_results_and_a_reason_but_no_evaluation(
    world: World, label: str, known: KnownClasses
) -> None:
    world.catalog.classes_of["iris-setosa"] = known
    world.catalog.add_dataset("strange", iris_rows()[:20], [label] * 20)
    async with world.working() as controller:
        await controller.place(order=replace(ORDER, dataset="strange"))
        run = await controller.ended()
        assert (run.state, run.rows_done, run.evaluation) == (RunState.SUCCEEDED, 20, None)
        assert "no row's label is a class of the ensemble" in run.detail
        assert f"got '{label}'" in run.detail
        assert {result.label for result in await all_results(controller, run)} == {label}


async def test_a_run_on_a_loaded_deployment_uses_it_and_leaves_it_loaded(world: World) -> None:
    await world.loaded("a1")
    async with world.working() as controller:
        await controller.place(order=replace(ORDER, deployment="a1"))
        run = await controller.ended()
        assert (run.state, run.temporary, run.deployment) == (RunState.SUCCEEDED, False, "a1")
        assert world.runtime.created == 1
        assert await world.is_in("a1", State.LOADED)


async def test_at_most_so_many_runs_are_worked_on_at_once_oldest_first(world: World) -> None:
    await world.loaded("a1")
    order = replace(ORDER, deployment="a1")
    controller = world.controller(at_once=2)
    ids = ["rc", "ra", "re", "rb", "rd"]
    for id in ids:
        await controller.place(id, order)
        world.clock.move(0.001)
    most = 0
    async with controller.executor.running():
        while live := [stored.value async for stored in controller.runs.all(states=LIVE)]:
            changed = controller.runs.changed()
            most = max(most, sum(run.state is not RunState.QUEUED for run in live))
            async with asyncio.timeout(60):
                await changed.wait()
    runs = [await controller.get(id) for id in ids]
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
    assert most == 2
    ended = [run.ended for run in runs if run.ended]
    assert max(ended[:2]) <= max(ended[2:])


async def test_two_executors_share_the_runs_and_do_nothing_twice(world: World) -> None:
    # Nobody is taken for dead here, however slow the machine is.
    pace = replace(QUICK, silent_s=60.0)
    async with world.working(pacing=pace, at_once=2) as one, world.working(pacing=pace) as two:
        ids = [f"r{number}" for number in range(6)]
        await asyncio.gather(*(one.place(id) for id in ids))
        runs = [await two.ended(id) for id in ids]
        assert {run.state for run in runs} == {RunState.SUCCEEDED}
        assert {run.attempts for run in runs} == {1}
        assert one.predictors.asked + two.predictors.asked == 6 * 15
        assert world.runtime.created == 6
        answers = [probabilities(await all_results(one, run)) for run in runs]
        assert all(answer == answers[0] for answer in answers)
        await eventually(world.is_bare)


async def test_a_predictor_that_dies_is_replaced_and_each_row_is_scored_once(
    world: World,
) -> None:
    gate = Gate(at=4)
    async with world.working(scoring=gate) as controller:
        await controller.place()
        await gate.reached.wait()
        await world.runtime.kill()
        gate.open.set()
        run = await controller.ended()
        assert (run.state, run.rows_done) == (RunState.SUCCEEDED, 150)
        assert run.attempts > 1
        assert world.runtime.created == 2
        assert len(probabilities(await all_results(controller, run))) == 150
        entries = await world.store.read(Log.RESULT, run.life, limit=100)
        assert [entry.number for entry in entries] == list(range(1, 16))
        await eventually(world.is_bare)


async def test_progress_only_grows_and_is_seen(world: World) -> None:
    seen: list[tuple[str, int]] = []
    asked = 0

    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        """Answer once what was written last has been seen."""
        nonlocal asked
        await eventually(lambda: seen[-1][1] == asked * CHUNK_ROWS)
        asked += 1
        return await go_on()

    async with world.working(scoring=scoring) as controller:
        await controller.place()
        while True:
            changed = controller.runs.changed()
            run = await controller.get()
            seen.append((run.state.value, run.rows_done))
            if run.has_ended:
                break
            await changed.wait()
    rows = [done for _, done in seen]
    assert rows == sorted(rows)
    assert set(rows) == {*range(0, 151, CHUNK_ROWS)}


async def test_an_answer_of_another_model_is_not_taken(world: World) -> None:
    asked = 0

    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        nonlocal asked
        asked += 1
        values, digest = await go_on()
        return (values * 0, "ff" * 32) if asked in (2, 5) else (values, digest)

    async with world.working(scoring=scoring) as controller:
        await controller.place()
        run = await controller.ended()
        assert (run.state, run.attempts) == (RunState.SUCCEEDED, 3)
        assert controller.predictors.asked == 17
        assert run.evaluation is not None
        assert run.evaluation.accuracy > 0.9


async def test_attempts_are_only_limited_while_nothing_is_achieved(world: World) -> None:
    asked = 0

    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise Unreachable("no answer")
        return await go_on()

    async with world.working(scoring=scoring) as controller:
        await controller.place()
        run = await controller.ended()
        assert (run.state, run.attempts) == (RunState.SUCCEEDED, 16)
        assert run.attempts > QUICK.patience.attempts


class Moody(SqliteStore):
    """A store that does not answer every third write of a run, half of them too late."""

    writes = 0

    async def compare_and_set(self, kind: Kind, *args: Any, **more: Any) -> Record | None:
        if kind is Kind.RUN:
            self.writes += 1
            if self.writes % 6 == 0:
                raise StoreUnavailable("gone before it was written")
        record = await super().compare_and_set(kind, *args, **more)
        if kind is Kind.RUN and self.writes % 6 == 3:
            raise StoreUnavailable("gone after it was written")
        return record


async def test_a_store_that_comes_and_goes_costs_time_and_nothing_else(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path, Moody(tmp_path / "moody.db")) as world,
        world.working() as controller,
    ):
        await controller.place()
        run = await controller.ended()
        assert (run.state, run.rows_done) == (RunState.SUCCEEDED, 150)
        assert run.attempts > 1
        assert len(probabilities(await all_results(controller, run))) == 150
        await eventually(world.is_bare)
