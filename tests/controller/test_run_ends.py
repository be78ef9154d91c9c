"""The ends that a run can come to, on a real store with real predictors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.deployments.document import State
from controller.deployments.verbs import Command, Verb
from controller.runs.run import LIVE, RunState
from controller.store.port import Entry, Log
from controller.store.sqlite import SqliteStore
from tests.artifacts import not_onnx
from tests.controller.run_fakes import Answer, Gate, GoOn, MovableClock
from tests.controller.run_world import (
    ORDER,
    Controller,
    World,
    all_results,
    open_world,
)
from tests.waiting import eventually
from trillium.errors import (
    IllegalStep,
    ModelFailed,
    RunNotFound,
    Unreachable,
)
from trillium.rows import Rows


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.mark.parametrize(
    ("error", "detail", "asked"),
    [
        (Unreachable("no answer"), "given up after 10 attempts: no answer", 10),
        (ModelFailed("it divides by zero"), "it divides by zero", 1),
        (RuntimeError("the password is swordfish"), "internal error", 10),
    ],
)
async def test_a_run_that_cannot_be_done_fails_and_says_why(
    world: World, error: Exception, detail: str, asked: int
) -> None:
    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        raise error

    async with world.working(scoring=scoring) as controller:
        await controller.place()
        run = await controller.ended()
        assert run.state is RunState.FAILED
        assert detail in run.detail
        assert "swordfish" not in run.detail
        assert controller.predictors.asked == asked
        with pytest.raises(IllegalStep, match="failed, 0 of 150 rows"):
            await all_results(controller, run)
        await eventually(world.is_bare)


async def test_a_model_that_predictors_refuse_fails_the_run_with_their_reason(
    world: World,
) -> None:
    world.catalog.add_model("broken", not_onnx())
    async with world.working() as controller:
        await controller.place(order=replace(ORDER, model="broken"))
        run = await controller.ended()
        assert run.state is RunState.FAILED
        assert "deployment 'run-r1' failed: " in run.detail
        await eventually(world.is_bare)


async def test_a_deployment_that_somebody_terminates_ends_its_run(world: World) -> None:
    gate = Gate()
    async with world.working(scoring=gate) as controller:
        await controller.place()
        await gate.reached.wait()
        await world.deployments.apply(Command(Verb.TERMINATE, "run-r1"))
        await eventually(world.is_bare)
        gate.open.set()
        run = await controller.ended()
        assert run.state is RunState.FAILED
        assert "somebody did not want it any more" in run.detail
        assert world.runtime.created == 1


async def test_a_deployment_of_somebody_else_is_left_alone(world: World) -> None:
    await world.loaded("run-r1")
    async with world.working() as controller:
        await controller.place()
        run = await controller.ended()
        assert (run.state, "another's" in run.detail) == (RunState.FAILED, True)
        await controller.executor._sweep()
        assert await world.is_in("run-r1", State.LOADED)


class HeldBack(SqliteStore):
    """A store whose reading of results can be held back."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_read = asyncio.Event()

    async def read(self, log: Log, owner: str, *, after: int = 0, limit: int) -> Sequence[Entry]:
        if log is Log.RESULT:
            await self.may_read.wait()
        return await super().read(log, owner, after=after, limit=limit)


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_run_can_be_ended_whatever_it_is_at(
    tmp_path: Path, state: RunState, how: str
) -> None:
    store, gate = HeldBack(tmp_path / "held.db"), Gate()
    if state is not RunState.COLLECTING:
        store.may_read.set()
    if state is not RunState.RUNNING:
        gate.open.set()
    at_once = 0 if state is RunState.QUEUED else 4
    async with (
        open_world(tmp_path, store) as world,
        world.working(scoring=gate, at_once=at_once) as controller,
    ):
        if state is RunState.PREPARING:
            world.runtime.may_create.clear()
        await controller.place()
        await eventually(lambda: is_at(controller, state))
        if how == "cancel":
            await controller.runs.cancel("r1")
        else:
            world.clock.move(ORDER.timeout_s)
        run = await controller.ended()
        wanted = RunState.CANCELLED if how == "cancel" else RunState.TIMED_OUT
        assert (run.state, run.evaluation) == (wanted, None)
        world.runtime.may_create.set()
        await eventually(world.is_bare)
        again = await controller.runs.cancel("r1")
        assert again.value == run


async def is_at(controller: Controller, state: RunState) -> bool:
    return (await controller.get()).state is state


async def test_a_run_that_succeeded_stays_so(world: World) -> None:
    async with world.working() as controller:
        await controller.place()
        run = await controller.ended()
        assert (await controller.runs.cancel("r1")).value == run
        world.clock.move(ORDER.timeout_s + 1)
        await controller.executor._round()
        assert await controller.get() == run
        assert controller.predictors.asked == 15


async def test_results_are_there_only_once_the_run_has_succeeded(world: World) -> None:
    controller = world.controller()
    run = await controller.place()
    with pytest.raises(IllegalStep, match="queued, 0 of 150 rows done"):
        await all_results(controller, run)


async def test_a_run_and_its_results_expire_together(tmp_path: Path) -> None:
    clock = MovableClock()
    store = SqliteStore(tmp_path / "expiring.db", clock=clock)
    async with open_world(tmp_path, store) as world, world.working() as controller:
        await controller.place()
        run = await controller.ended()
        assert (run.expires - run.deadline).days == 7
        clock.move(ORDER.timeout_s + 7 * 86400 - 60)
        assert len(await all_results(controller, run)) == 150
        clock.move(61)
        assert await controller.runs.get("r1") is None
        with pytest.raises(RunNotFound, match="expired"):
            await all_results(controller, run)
        with pytest.raises(RunNotFound):
            await controller.runs.cancel("r1")


class Lossy(SqliteStore):
    """A store that forgets the seventh chunk of results."""

    async def append(self, log: Log, owner: str, number: int, *args: Any, **more: Any) -> None:
        if (log, number) != (Log.RESULT, 7):
            await super().append(log, owner, number, *args, **more)


async def test_a_result_that_is_not_complete_is_not_accepted(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path, Lossy(tmp_path / "lossy.db")) as world,
        world.working() as controller,
    ):
        await controller.place()
        run = await controller.ended()
        assert run.state is RunState.FAILED
        assert "lost chunk 7" in run.detail
        await eventually(world.is_bare)
