"""The crash matrix: a controller is killed at every failpoint there is, and the next one heals it.

Controller and predictors are real processes. Each chain of the matrix is one store and one caller
after another: a controller is started that kills itself at the next failpoint, either while it
recovers from the death before or while it does what it is asked; and so on, to the end. Every
recovery must reach the right state or the next death.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from controller.deployment import Phase
from tests.acceptance.controllers import (
    Control,
    children_of,
    controlling,
    copy_of,
    outcome_of,
    predictors_at,
    seeded,
)
from tests.acceptance.processes import ROOT
from tests.artifacts import with_trillium_metadata
from tests.waiting import eventually
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

# A chain is many controllers, one after the other.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

PATIENCE_S = 120.0
"""Recoveries are printed; on a quiet machine they take a few seconds."""

ABSENT, CREATED, LOADED = (
    deployment_pb.TARGET_ABSENT,
    deployment_pb.TARGET_CREATED,
    deployment_pb.TARGET_LOADED,
)
REACHED: dict[int, int] = {
    ABSENT: deployment_pb.STATE_TERMINATED,
    CREATED: deployment_pb.STATE_CREATED,
    LOADED: deployment_pb.STATE_LOADED,
}


@dataclass
class Chain:
    """A store whose controllers die one after the other."""

    points: Sequence[str]
    do: Callable[[Chain, Control], Awaitable[None]]
    """Goes on until the controller is dead."""
    check: Callable[[Chain, Control], Awaitable[None]]
    """Whether everything is as it was asked; may raise when the controller dies meanwhile."""
    dead: list[int] = field(default_factory=list)
    """Controllers that killed themselves."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds that each recovery took that was not cut short."""
    target: int | None = None
    """What was wanted last of the deployment."""
    before: int | None = None
    """What was wanted before that; it may still be, if the last call found the controller dying."""
    run: str = ""
    """The run that was ordered last."""
    answered: bool = False
    """Whether its order was answered."""
    runs: int = 0
    attempt: int = 0

    async def carry_out(self, store: str) -> None:
        for point in self.points:
            async with controlling(store, failpoint=point) as control:
                await self._recover(control, point)
                if not control.has_died:
                    await asyncio.wait_for(self.do(self, control), PATIENCE_S)
                assert await control.server.ended() == -signal.SIGKILL, control.server.stderr
                self.dead.append(control.server.pid)
        async with controlling(store) as control:
            await self._recover(control, "")
            assert not control.has_died, control.server.stderr
        await self._check_that_nothing_runs_on()
        children = children_of(control.server.pid)
        assert not children

    async def _recover(self, control: Control, point: str) -> None:
        """Wait until all is well, or until the controller has killed itself again."""
        began = time.monotonic()
        trouble: BaseException | None = None
        while time.monotonic() - began < PATIENCE_S:
            try:
                await self.check(self, control)
                await self._check_that_nothing_runs_on()
                self.recoveries.append(time.monotonic() - began)
                return
            except (AssertionError, grpc.aio.AioRpcError) as error:
                trouble = error
            if control.has_died:
                assert point
                return
            await asyncio.sleep(0.02)
        died = f"not healed after {self.points[: len(self.dead)][-1:]}"
        raise AssertionError(f"{died}: {control.server.stderr}") from trouble

    async def _check_that_nothing_runs_on(self) -> None:
        left = [pid for dead in self.dead for pid in children_of(dead)]
        assert not left, f"children of dead controllers: {left}"


async def check_deployment(chain: Chain, control: Control) -> None:
    """That what was wanted is there, once, and nothing else."""
    if chain.target is None:
        return
    deployment = await control.get("a1")
    assert deployment.target in (chain.target, chain.before)
    assert deployment.state == REACHED[deployment.target], deployment
    instance = deployment.instances[0]
    # An attempt is never used again, whoever dies.
    assert instance.attempt >= chain.attempt
    chain.attempt = instance.attempt
    children = children_of(control.server.pid)
    if chain.target == ABSENT:
        assert children == []
        return
    assert children == predictors_at(instance.address)
    assert len(children) == 1
    wanted = deployment.model_digest if chain.target == LOADED else ""
    assert instance.model_digest == wanted


async def check_failed(chain: Chain, control: Control) -> None:
    """That a deployment that cannot be had says so, or is gone, and has no container."""
    if chain.target is None:
        return
    deployment = await control.get("a1")
    is_refused = deployment.state == deployment_pb.STATE_FAILED
    is_gone = deployment.state == deployment_pb.STATE_TERMINATED
    assert is_gone if chain.target == ABSENT else is_refused
    assert is_gone or "cannot be held to 1 cpus" in deployment.detail
    assert children_of(control.server.pid) == []


def asking(
    *verbs: tuple[int, Callable[[Control], Awaitable[Any]]],
) -> Callable[[Chain, Control], Awaitable[None]]:
    """Ask these, each with the target that it sets, in turns until the controller is dead."""

    async def do(chain: Chain, control: Control) -> None:
        while True:
            for target, verb in verbs:
                chain.before, chain.target = chain.target, target
                code = await outcome_of(verb(control))
                if code is grpc.StatusCode.UNAVAILABLE:
                    await control.server.ended()
                    return
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION), code
                chain.before = target

    return do


async def load(control: Control) -> Any:
    return await control.load("a1", model="flower")


async def load_other(control: Control) -> Any:
    version = (await control.get("a1")).model_version
    return await control.load("a1", model_version=3 - version)


async def lose_predictor(control: Control) -> Any:
    """Kill the predictor, and wait until another one serves in its place."""
    (instance,) = (await control.get("a1")).instances
    (pid,) = predictors_at(instance.address)
    os.kill(pid, signal.SIGKILL)

    async def is_replaced() -> bool:
        deployment = await control.get("a1")
        again = deployment.instances[0].attempt > instance.attempt
        return again and bool(deployment.state == deployment_pb.STATE_LOADED)

    await eventually(is_replaced)


async def check_run(chain: Chain, control: Control) -> None:
    """That the run that was ordered last has ended as it must, and has left nothing."""
    if not chain.run:
        return
    with_id = run_pb.GetRunRequest(name=f"runs/{chain.run}")
    if await outcome_of(control.runs.GetRun(with_id, timeout=5)) is grpc.StatusCode.NOT_FOUND:
        # It died before the order was written down, and its caller was not answered.
        assert not chain.answered
        assert children_of(control.server.pid) == []
        return
    run = await control.runs.GetRun(with_id, timeout=5)
    ends = {run_pb.RUN_STATE_SUCCEEDED}
    if chain.run.startswith("late"):
        ends = {run_pb.RUN_STATE_TIMED_OUT}
    elif chain.run.startswith("off"):
        # The cancellation may not have been written down.
        ends = {run_pb.RUN_STATE_CANCELLED, run_pb.RUN_STATE_SUCCEEDED}
    elif chain.run.startswith("bad"):
        ends = {run_pb.RUN_STATE_FAILED}
    assert run.state in ends, run
    if run.state == run_pb.RUN_STATE_SUCCEEDED:
        assert (run.rows_done, run.rows_total) == (150, 150)
        assert run.evaluation.accuracy == 1.0
        listing = run_pb.ListResultsRequest(run=run.name)
        results = (await control.runs.ListResults(listing, timeout=5)).results
        assert [each.row for each in results] == list(range(150))
    assert children_of(control.server.pid) == []


def ordering(kind: str, **fields: Any) -> Callable[[Chain, Control], Awaitable[None]]:
    """Order runs, one after the other, until the controller is dead."""

    async def do(chain: Chain, control: Control) -> None:
        while not control.has_died:
            chain.runs += 1
            chain.run = f"{kind}{chain.runs}"
            if kind == "bad":
                # Somebody else has the name of the deployment that would be the run's own.
                limits = {"cpus": 1.0}
                await outcome_of(control.create(f"run-{chain.run}", "flower", limits=limits))
            request = run_pb.CreateRunRequest(
                run_id=chain.run, model="flower", dataset="iris", no_wait=kind == "off", **fields
            )
            chain.answered = False
            code = await outcome_of(control.runs.CreateRun(request, timeout=20))
            chain.answered = code is grpc.StatusCode.OK
            if kind == "off":
                cancel = run_pb.CancelRunRequest(name=f"runs/{chain.run}")
                await outcome_of(control.runs.CancelRun(cancel, timeout=20))
            with suppress(TimeoutError):
                # What comes after the answer is done in the background.
                await control.server.ended(0.5)

    return do


def both(*names: str, prefix: str = "") -> tuple[str, ...]:
    """The failpoints before and after each of these."""
    return tuple(f"{prefix}{side}-{name}" for name in names for side in ("before", "after"))


def writes(*phases: Phase) -> tuple[str, ...]:
    return both(*(f"write-{phase.value}" for phase in phases))


CHAINS: dict[str, Callable[[], Chain]] = {
    "create": lambda: Chain(
        (*writes(Phase.CREATING), *both("create"), *writes(Phase.IDLE)),
        asking((LOADED, load), (ABSENT, lambda control: control.terminate("a1"))),
        check_deployment,
    ),
    "load": lambda: Chain(
        (*writes(Phase.LOADING), *both("load"), *writes(Phase.SERVING)),
        asking((LOADED, load), (ABSENT, lambda control: control.terminate("a1"))),
        check_deployment,
    ),
    "unload": lambda: Chain(
        (*writes(Phase.DRAINING, Phase.UNLOADING), *both("unload")),
        asking((LOADED, load), (CREATED, lambda control: control.unload("a1"))),
        check_deployment,
    ),
    "terminate": lambda: Chain(
        (*writes(Phase.REMOVING, Phase.ABSENT), *both("remove")),
        asking((LOADED, load), (ABSENT, lambda control: control.terminate("a1"))),
        check_deployment,
    ),
    "replace": lambda: Chain(
        writes(Phase.REPLACING),
        asking((LOADED, load), (LOADED, load_other)),
        check_deployment,
    ),
    "lose": lambda: Chain(
        writes(Phase.BACKOFF),
        asking((LOADED, load), (LOADED, lose_predictor)),
        check_deployment,
    ),
    "refuse": lambda: Chain(
        writes(Phase.FAILED),
        asking(
            (CREATED, lambda control: control.create("a1", "flower", limits={"cpus": 1.0})),
            (ABSENT, lambda control: control.terminate("a1")),
        ),
        check_failed,
    ),
    "run-begin": lambda: Chain(
        both("create", "take", "deploy", prefix="run-"), ordering("good"), check_run
    ),
    "run-score": lambda: Chain(
        both("running", "score", "chunk", prefix="run-"), ordering("good"), check_run
    ),
    "run-end": lambda: Chain(
        both("progress", "collecting", "succeeded", "clean", prefix="run-"),
        ordering("good"),
        check_run,
    ),
    "run-timed-out": lambda: Chain(
        both("timed-out", prefix="run-"),
        # No predictor starts within that.
        ordering("late", timeout=Duration(nanos=50_000_000)),
        check_run,
    ),
    "run-cancelled": lambda: Chain(both("cancelled", prefix="run-"), ordering("off"), check_run),
    "run-failed": lambda: Chain(both("failed", prefix="run-"), ordering("bad"), check_run),
}
ELSEWHERE = both("again", "beat", prefix="run-")
"""Failpoints that only a predictor that fails or is slow reaches; tests/controller has them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The file of a store that knows two versions of a model; to be copied."""
    async with seeded(tmp_path_factory.mktemp("crashes"), models) as store:
        async with controlling(f"sqlite:{store}") as control:
            artifact = (models / "iris-setosa.onnx").read_bytes()
            await control.register("flower", artifact)
            await control.register("flower", with_trillium_metadata(artifact, edition="2"))
        yield store


@pytest.mark.parametrize("name", CHAINS)
async def test_whatever_controllers_die_of_the_next_one_heals(
    store: Path, tmp_path: Path, name: str
) -> None:
    chain = CHAINS[name]()
    await chain.carry_out(copy_of(store, tmp_path))
    assert len(chain.dead) == len(chain.points)
    assert chain.recoveries
    usual, slowest = median(chain.recoveries), max(chain.recoveries)
    print(f"{name}: {len(chain.dead)} deaths; recoveries {usual:.1f} s, at most {slowest:.1f} s")


async def test_the_matrix_has_every_failpoint_there_is() -> None:
    have = {point for make in CHAINS.values() for point in make().points} | set(ELSEWHERE)
    text = "".join(path.read_text() for path in (ROOT / "controller").rglob("*.py"))
    plain = set(re.findall(r'passed\("([a-z-]+)"\)', text))
    assert len(plain) > 10
    assert plain <= have
    assert set(writes(*Phase)) <= have
    # Those of runs' writes are listed where they are passed.
    listed = set(re.findall(r"run-(?:before|after)-[a-z]+(?:-[a-z]+)*", text))
    assert listed <= have
