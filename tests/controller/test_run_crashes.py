"""A controller dies wherever it can while runs are carried out; another one finishes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from controller.deployments.verbs import Command, Verb
from controller.runs.repository import Runs
from controller.runs.run import Evaluation, Run, RunState
from controller.store.port import Kind, Log
from tests.controller.run_fakes import Answer, Gate, GoOn, Mortal
from tests.controller.run_world import ORDER, QUICK, World, all_results, open_world, probabilities
from tests.waiting import eventually
from trillium.errors import ModelFailed, Unreachable
from trillium.rows import Rows

WORK = (
    ("take", 1),
    ("deploy", 1),
    ("running", 1),
    ("score", 1),
    ("chunk", 1),
    ("chunk", 3),
    ("progress", 15),
    ("collecting", 1),
    ("succeeded", 1),
    ("clean", 1),
    ("beat", 2),
)
"""What a controller dies before or after, and at which time of it."""
SIDES = ("run-before-", "run-after-")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def check_one_result(world: World, run: Run) -> None:
    """That the run succeeded once, with each row, and that nothing else is left of it."""
    assert run.state is RunState.SUCCEEDED, run.detail
    assert run.evaluation == Evaluation(1.0, ("setosa", "rest"), (50, 0, 0, 100))
    controller = world.controller()
    assert len(probabilities(await all_results(controller, run))) == 150
    entries = await world.store.read(Log.RESULT, run.life, limit=100)
    assert [entry.number for entry in entries] == list(range(1, 16))
    await eventually(world.is_bare)
    # What follows an end is read again after everything else has come to rest.
    assert await controller.get(run.id) == run


@pytest.mark.parametrize(("what", "count"), WORK)
@pytest.mark.parametrize("side", SIDES)
async def test_another_controller_finishes_what_a_dead_one_began(
    world: World, side: str, what: str, count: int
) -> None:
    mortal = Mortal(side + what, count)
    # Signs of life are only needed while nothing else is written.
    held = Gate(at=2) if what == "beat" else None
    async with world.working(mortal, scoring=held) as first:
        await first.place()
        await mortal.reached()
    async with world.working() as second:
        await check_one_result(world, await second.ended())
    assert world.runtime.created == 1


@pytest.mark.parametrize("side", SIDES)
async def test_a_caller_repeats_an_order_whose_controller_died(world: World, side: str) -> None:
    first = world.controller(Mortal(f"{side}create"))
    with pytest.raises(asyncio.CancelledError):
        await first.place()
    async with world.working() as second:
        await second.place()
        await check_one_result(world, await second.ended())
        assert second.predictors.asked == 15


@pytest.mark.parametrize("side", SIDES)
async def test_an_attempt_that_failed_is_repeated_by_another_controller(
    world: World, side: str
) -> None:
    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        raise Unreachable("no answer")

    mortal = Mortal(f"{side}again", 2)
    async with world.working(mortal, scoring=scoring) as first:
        await first.place()
        await mortal.reached()
    async with world.working() as second:
        await check_one_result(world, await second.ended())


@pytest.mark.parametrize("side", SIDES)
async def test_a_run_that_fails_is_cleaned_up_by_another_controller(
    world: World, side: str
) -> None:
    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        raise ModelFailed("it divides by zero")

    mortal = Mortal(f"{side}failed")
    async with world.working(mortal, scoring=scoring) as first:
        await first.place()
        await mortal.reached()
    async with world.working(scoring=scoring) as second:
        assert (await second.ended()).state is RunState.FAILED
        await eventually(world.is_bare)


@pytest.mark.parametrize("end", ["cancelled", "timed-out", "clean"])
@pytest.mark.parametrize("side", SIDES)
async def test_an_end_that_a_dying_controller_writes_leaves_nothing(
    world: World, side: str, end: str
) -> None:
    mortal, gate = Mortal(side + end), Gate()
    async with world.working(mortal, scoring=gate) as first:
        await first.place()
        await gate.reached.wait()
        if end == "timed-out":
            world.clock.move(ORDER.timeout_s)
        else:
            with suppress(asyncio.CancelledError):
                await first.runs.cancel("r1")
        await mortal.reached()
    async with world.working() as second:
        run = await second.ended()
        if end == "timed-out":
            assert run.state is RunState.TIMED_OUT
        elif (side, end) == ("run-before-", "cancelled"):
            await check_one_result(world, run)
        else:
            assert run.state is RunState.CANCELLED
        await eventually(world.is_bare)


async def test_a_run_whose_controller_died_is_cancelled_without_anybody_who_works(
    world: World,
) -> None:
    mortal = Mortal("run-after-chunk")
    async with world.working(mortal) as first:
        await first.place()
        await mortal.reached()
    caller = world.controller()
    stored = await caller.runs.cancel("r1")
    assert stored.value.state is RunState.CANCELLED
    await eventually(world.is_bare)


async def test_the_first_results_of_a_chunk_stay(world: World) -> None:
    """Another machine may answer other last bits: a chunk is of one of them, not of both."""

    async def scoring(rows: Rows, go_on: GoOn) -> Answer:
        values, digest = await go_on()
        return values * np.float32(0.999), digest

    mortal = Mortal("run-after-chunk", 2)
    async with world.working(mortal, scoring=scoring) as first:
        await first.place()
        await mortal.reached()
    async with world.working() as second:
        run = await second.ended()
        assert (run.state, run.attempts) == (RunState.SUCCEEDED, 2)
        results = await all_results(second, run)
        await second.place("r2")
        undisturbed = await all_results(second, await second.ended("r2"))
        ratios = np.array(probabilities(results)) / probabilities(undisturbed)
        assert ratios[:20] == pytest.approx(0.999)
        assert ratios[20:] == pytest.approx(1.0)
        assert second.predictors.asked == 14 + 15


class Deaf(Runs):
    """Runs of a controller that is stopped: it notices nothing of what others do."""

    def changed(self) -> asyncio.Event:
        return asyncio.Event()


async def test_a_holder_that_was_stopped_changes_nothing_when_it_goes_on(world: World) -> None:
    gate = Gate(at=2)

    async def late_nonsense(rows: Rows, go_on: GoOn) -> Answer:
        values, digest = await gate(rows, go_on)
        return (values * 0 if gate.open.is_set() else values), digest

    stopped = replace(QUICK, beat_s=60.0, round_s=60.0, sweep_s=60.0)
    async with world.working(scoring=late_nonsense, pacing=stopped, make_runs=Deaf) as first:
        await first.place()
        await gate.reached.wait()
        async with world.working() as second:
            run = await second.ended()
            assert run.lease.epoch == 2
            await eventually(world.is_bare)
            results = await all_results(second, run)
            gate.open.set()
            await eventually(lambda: not first.executor._working)
            assert await second.get() == run
            assert await all_results(second, run) == results
            await check_one_result(world, run)
    assert world.runtime.created == 1


async def test_a_wish_for_a_deployment_that_comes_late_does_not_bring_it_back(
    world: World,
) -> None:
    async with world.working() as controller:
        await controller.place()
        run = await controller.ended()
        await eventually(world.is_bare)
        spec = (await world.catalog.model_version("iris-setosa", 0)).spec
        command = Command(Verb.LOAD, run.deployment, spec, f"run.{run.life}", run.id)
        await world.deployments.apply(command)
        assert await world.is_bare()


@pytest.mark.parametrize("ended", [True, False])
async def test_a_deployment_without_a_living_run_is_removed(world: World, ended: bool) -> None:
    """It was wished by a holder who did not know yet that its run had ended or expired."""
    controller = world.controller()
    await controller.place()
    spec = (await world.catalog.model_version("iris-setosa", 0)).spec
    await world.deployments.apply(Command(Verb.LOAD, "run-r1", spec, "", "r1"))
    await eventually(lambda: world.runtime.created == 1)
    stored = await controller.runs.found("r1")
    if ended:
        mortal = world.controller(Mortal("run-after-cancelled"))
        with pytest.raises(asyncio.CancelledError):
            await mortal.runs.cancel("r1")
    else:
        await world.store.delete(Kind.RUN, "r1", stored.rev)
    async with controller.executor.running():
        await eventually(world.is_bare)


async def test_a_run_that_kills_its_controllers_is_given_up(world: World) -> None:
    for _ in range(QUICK.patience.attempts):
        mortal = Mortal("run-after-take")
        pace = replace(QUICK, silent_s=0.0)
        async with world.working(mortal, pacing=pace) as controller:
            await controller.place()
            await mortal.reached()
    async with world.working() as last:
        run = await last.ended()
        assert run.state is RunState.FAILED
        assert "given up after 10 attempts" in run.detail
        await eventually(world.is_bare)


async def test_a_predictor_and_its_controller_may_die_together(world: World) -> None:
    mortal = Mortal("run-after-chunk", 5)
    async with world.working(mortal) as first:
        await first.place()
        await mortal.reached()
    await world.runtime.kill()
    async with world.working() as second:
        await check_one_result(world, await second.ended())
        run = await second.get()
    assert run.rows_done == 150
    assert isinstance(run.ended, datetime)
    assert world.runtime.created == 2
