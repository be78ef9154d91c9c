"""The crash matrix: controllers are killed at every failpoint there is, and the next one heals it.

Each chain of the matrix is one store and one caller after another: a controller is started that
kills itself at the next failpoint, either while it recovers from the death before or while it does
what it is asked; and so on, to the end. Every recovery must reach the right state or the next
death. A chain that heals each death has another controller recover in between. Controllers and
predictors are real; where predictors run is the `Yard`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from controller.deployments.document import InstancePhase
from tests.acceptance.controllers import Control, controlling, outcome_of, seeded
from tests.acceptance.crash_chain import Chain, Yard
from tests.acceptance.processes import ROOT
from tests.artifacts import with_trillium_metadata
from tests.waiting import eventually
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

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
    there = await chain.yard.everything(control.server.pid)
    if deployment.target == ABSENT:
        assert there == []
        return
    assert len(there) == 1
    assert there == await chain.yard.current(instance)
    # What ran when the controller before died was wanted, so it was adopted and not replaced.
    assert chain.kept in ([], there)
    wanted = deployment.model_digest if deployment.target == LOADED else ""
    assert instance.model_digest == wanted


async def check_failed(chain: Chain, control: Control) -> None:
    """That a deployment that cannot be had says so, or is gone, and has no container."""
    if chain.target is None:
        return
    deployment = await control.get("a1")
    is_refused = deployment.state == deployment_pb.STATE_FAILED
    is_gone = deployment.state == deployment_pb.STATE_TERMINATED
    assert is_gone if chain.target == ABSENT else is_refused
    assert is_gone or chain.yard.refusal in deployment.detail
    assert await chain.yard.everything(control.server.pid) == []


def asking(
    *verbs: tuple[int, Callable[[Chain, Control], Awaitable[Any]]],
) -> Callable[[Chain, Control], Awaitable[None]]:
    """Ask these, each with the target that it sets, in turns until the controller is dead."""

    async def do(chain: Chain, control: Control) -> None:
        while True:
            for target, verb in verbs:
                chain.before, chain.target = chain.target, target
                code = await outcome_of(verb(chain, control))
                if code is grpc.StatusCode.UNAVAILABLE:
                    await control.server.ended()
                    return
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION), code
                chain.before = target

    return do


async def create_limited(chain: Chain, control: Control) -> Any:
    return await control.create("a1", "flower", limits={"cpus": 1.0})


async def load(chain: Chain, control: Control) -> Any:
    return await control.load("a1", model="flower")


async def load_other(chain: Chain, control: Control) -> Any:
    version = (await control.get("a1")).model_version
    return await control.load("a1", model_version=3 - version)


async def unload(chain: Chain, control: Control) -> Any:
    return await control.unload("a1")


async def terminate(chain: Chain, control: Control) -> Any:
    return await control.terminate("a1")


async def lose_predictor(chain: Chain, control: Control) -> Any:
    """Kill the predictor, and wait until another one serves in its place."""
    (instance,) = (await control.get("a1")).instances
    await chain.yard.kill(instance)

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
    if await outcome_of(control.runs.GetRun(with_id, timeout=60)) is grpc.StatusCode.NOT_FOUND:
        # It died before the order was written down, and its caller was not answered.
        assert not chain.answered
        assert await chain.yard.everything(control.server.pid) == []
        return
    run = await control.runs.GetRun(with_id, timeout=60)
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
        results = (await control.runs.ListResults(listing, timeout=60)).results
        assert [each.row for each in results] == list(range(150))
    if chain.yard.lasts and run.state == run_pb.RUN_STATE_SUCCEEDED:
        # Whoever died, the run went on with the container that it had.
        (instance,) = (await control.get(f"run-{chain.run}")).instances
        assert instance.attempt == 1
    assert await chain.yard.everything(control.server.pid) == []


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
            code = await outcome_of(control.runs.CreateRun(request, timeout=60))
            chain.answered = code is grpc.StatusCode.OK
            if kind == "off":
                cancel = run_pb.CancelRunRequest(name=f"runs/{chain.run}")
                await outcome_of(control.runs.CancelRun(cancel, timeout=60))
            with suppress(TimeoutError):
                # What comes after the answer is done in the background.
                await control.server.ended(0.5)

    return do


def both(*names: str, prefix: str = "") -> tuple[str, ...]:
    """The failpoints before and after each of these."""
    return tuple(f"{prefix}{side}-{name}" for name in names for side in ("before", "after"))


def writes(*phases: InstancePhase) -> tuple[str, ...]:
    return both(*(f"write-{phase.value}" for phase in phases))


CHAINS: dict[str, Callable[[Yard], Chain]] = {
    "create": lambda yard: Chain(
        (*writes(InstancePhase.CREATING), *both("create"), *writes(InstancePhase.IDLE)),
        asking((LOADED, load), (ABSENT, terminate)),
        check_deployment,
        yard,
    ),
    "load": lambda yard: Chain(
        (*writes(InstancePhase.LOADING), *both("load"), *writes(InstancePhase.SERVING)),
        asking((LOADED, load), (ABSENT, terminate)),
        check_deployment,
        yard,
    ),
    "unload": lambda yard: Chain(
        (*writes(InstancePhase.DRAINING, InstancePhase.UNLOADING), *both("unload")),
        asking((LOADED, load), (CREATED, unload)),
        check_deployment,
        yard,
    ),
    "terminate": lambda yard: Chain(
        (*writes(InstancePhase.REMOVING, InstancePhase.ABSENT), *both("remove")),
        asking((LOADED, load), (ABSENT, terminate)),
        check_deployment,
        yard,
    ),
    "replace": lambda yard: Chain(
        writes(InstancePhase.REPLACING),
        asking((LOADED, load), (LOADED, load_other)),
        check_deployment,
        yard,
    ),
    "lose": lambda yard: Chain(
        writes(InstancePhase.BACKOFF),
        asking((LOADED, load), (LOADED, lose_predictor)),
        check_deployment,
        yard,
    ),
    "refuse": lambda yard: Chain(
        writes(InstancePhase.FAILED),
        asking((CREATED, create_limited), (ABSENT, terminate)),
        check_failed,
        yard,
        is_refused=True,
    ),
    "run-begin": lambda yard: Chain(
        both("create", "take", "deploy", prefix="run-"), ordering("good"), check_run, yard
    ),
    "run-score": lambda yard: Chain(
        both("running", "score", "chunk", prefix="run-"), ordering("good"), check_run, yard
    ),
    "run-end": lambda yard: Chain(
        both("progress", "collecting", "succeeded", "clean", prefix="run-"),
        ordering("good"),
        check_run,
        yard,
    ),
    "run-timed-out": lambda yard: Chain(
        both("timed-out", prefix="run-"),
        # No predictor starts within that.
        ordering("late", timeout=Duration(nanos=50_000_000)),
        check_run,
        yard,
    ),
    "run-cancelled": lambda yard: Chain(
        both("cancelled", prefix="run-"), ordering("off"), check_run, yard
    ),
    "run-failed": lambda yard: Chain(
        both("failed", prefix="run-"), ordering("bad"), check_run, yard, is_refused=True
    ),
}
ELSEWHERE = (
    *both("again", "beat", prefix="run-"),
    *both("ensemble-write", "ensemble-command"),
)
"""Failpoints that only a predictor that fails or is slow reaches, and those of ensembles, which act
on no process themselves; tests/controller has them."""


@asynccontextmanager
async def flower_store(folder: Path, models: Path) -> AsyncIterator[Path]:
    """The file of a store that knows two versions of a model; to be copied."""
    async with seeded(folder, models) as store:
        async with controlling(f"sqlite:{store}") as control:
            artifact = (models / "iris-setosa.onnx").read_bytes()
            await control.register("flower", artifact)
            await control.register("flower", with_trillium_metadata(artifact, edition="2"))
        yield store


def check_healed(name: str, chain: Chain) -> None:
    """That each of the chain's controllers died where it should; prints how long healing took."""
    assert len(chain.dead) == len(chain.points)
    assert len(chain.recoveries) >= (len(chain.dead) if chain.heals_each else 1)
    usual, slowest = median(chain.recoveries), max(chain.recoveries)
    print(
        f"{name}: {len(chain.dead)} deaths; whole again {usual:.1f} s after the next start, "
        f"at most {slowest:.1f} s; {chain.adopted} adopted"
    )


def failpoints() -> set[str]:
    """Every failpoint that there is, read from the controller's code; those of other processes'
    making are left out."""
    text = "".join(path.read_text() for path in (ROOT / "controller").rglob("*.py"))
    plain = set(re.findall(r'passed\("([a-z-]+)"\)', text))
    assert len(plain) > 10
    # Those of runs' writes are listed where they are passed.
    listed = set(re.findall(r"run-(?:before|after)-[a-z]+(?:-[a-z]+)*", text))
    return plain | listed | set(writes(*InstancePhase))
