"""Callers ask two controllers for all sorts of things while those, the predictors and the database
are killed and stopped: what was acknowledged is there in the end, and nothing else runs.

Half a minute of it runs in CI; `TRILLIUM_CHAOS_S=600 make test-thorough ARGS="-k chaos"` is longer.
A seed that failed is tried again with `TRILLIUM_CHAOS_SEED`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from tests.acceptance.controllers import CALL_S, Control, controlling
from tests.acceptance.outliving import end_all, pids_in
from tests.acceptance.processes import is_alive
from tests.freezing import freeze
from tests.store.mongod import Mongod
from tests.waiting import eventually
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

CHAOS_S = float(os.environ.get("TRILLIUM_CHAOS_S", "30"))
SEED = int(os.environ.get("TRILLIUM_CHAOS_SEED", "1"))
HEALED_S = 120.0
"""Within this everything is as it should be; attempts pause for up to 32 s after five failures."""
CALLERS = 4
ROWS = 150
UNSURE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)
"""A call that ended so may have been carried out."""
ENDS = {"create": "CREATED", "load": "LOADED", "unload": "CREATED", "terminate": "TERMINATED"}

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]


@dataclass(slots=True)
class Wanted:
    """What may have become of a deployment, as its only caller knows it."""

    states: set[str] = field(default_factory=lambda: {""})
    replicas: set[int] = field(default_factory=lambda: {1})


class Yard:
    """Two controllers on one store, and predictors that outlive them."""

    def __init__(self, store: str, models: Path, folder: Path, stack: AsyncExitStack) -> None:
        self._command = (store, f"--models-dir={models}", str(folder))
        self.folder = folder
        self._stack = stack
        self.controls: list[Control] = []

    async def start(self, index: int) -> None:
        """Start a controller, or another one in its place."""
        up = controlling(*self._command, module="tests.acceptance.outliving")
        control = await self._stack.enter_async_context(up)
        self.controls[index : index + 1] = [control]

    @property
    def pids(self) -> dict[str, int]:
        return pids_in(self.folder)


class Caller:
    """Asks for one deployment, and for runs."""

    def __init__(self, number: int, yard: Yard, chance: random.Random) -> None:
        self.id = f"d{number}"
        self._yard = yard
        self._chance = chance
        self.wanted = Wanted()
        self.runs: set[str] = set()
        self.unsure_runs: set[str] = set()
        self.acknowledged = 0

    async def once(self) -> None:
        """One call, and what it means."""
        control = self._chance.choice(self._yard.controls)
        if self._chance.random() < 0.1:
            return await self._run(control)
        verb = self._chance.choice(("create", "load", "load", "unload", "terminate", "update"))
        replicas = self._chance.choice((1, 2))
        fields: dict[str, Any] = {"no_wait": True}
        if verb == "create":
            fields["replica_count"] = replicas
        if verb == "update":
            fields["replica_count"] = replicas
        try:
            answer = await getattr(control, verb)(self.id, **fields)
        except aio.AioRpcError as error:
            if error.code() in UNSURE:
                self._note(verb, replicas, sure=False)
            return None
        self.acknowledged += 1
        self._note(verb, replicas, sure=True)
        if verb == "load":
            # One that began anew has the replicas that it had.
            self.wanted.replicas = {answer.replica_count}
        return None

    def _note(self, verb: str, replicas: int, *, sure: bool) -> None:
        wanted = self.wanted
        state, counts = ENDS.get(verb), {replicas} if verb in ("create", "update") else set()
        if sure:
            if state:
                wanted.states = {state}
            wanted.replicas = counts or wanted.replicas
            return
        if state:
            wanted.states.add(state)
        wanted.replicas |= counts

    async def _run(self, control: Control) -> None:
        id = f"r{self.id}-{self._chance.randrange(10**9)}"
        request = run_pb.CreateRunRequest(
            run_id=id, model="iris-setosa", dataset="iris", no_wait=True
        )
        try:
            await control.runs.CreateRun(request, timeout=CALL_S)
        except aio.AioRpcError as error:
            if error.code() in UNSURE:
                self.unsure_runs.add(id)
            return
        self.acknowledged += 1
        self.runs.add(id)


async def hurt(
    yard: Yard, chance: random.Random, mongod: Mongod | None, callers: list[Caller]
) -> int:
    """One blow after the other, each after some calls were acknowledged."""
    blows, end = 0, time.monotonic() + CHAOS_S
    while time.monotonic() < end:
        await acknowledged(callers, chance.randrange(2, 12))
        blow = chance.choice(
            ("controller", "controller", "pause", "predictor", "predictor", "store")
        )
        index = chance.randrange(2)
        control = yard.controls[index]
        if blow == "controller":
            control.server.signal(signal.SIGKILL)
            await control.server.ended()
            await yard.start(index)
        elif blow == "pause":
            freeze(control.server.pid)
            other = yard.controls[1 - index]
            await eventually(partial(answers, other), CALL_S)
            control.server.signal(signal.SIGCONT)
        elif blow == "predictor" and (pids := list(yard.pids.values())):
            victim = chance.choice(pids)
            os.kill(victim, signal.SIGKILL)
            await eventually(partial(is_gone, victim))
        elif blow == "store" and mongod is not None:
            await asyncio.to_thread(mongod.kill)
            await asyncio.to_thread(mongod.start)
        blows += 1
    return blows


async def acknowledged(callers: list[Caller], count: int) -> None:
    """Wait until some more calls were acknowledged."""

    def total() -> int:
        return sum(each.acknowledged for each in callers)

    enough = total() + count
    await eventually(lambda: total() >= enough, CALL_S)


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


async def answers(control: Control) -> bool:
    try:
        await control.runs.ListRuns(run_pb.ListRunsRequest(page_size=1), timeout=5)
    except aio.AioRpcError:
        return False
    return True


async def what_is_wrong(yard: Yard, callers: list[Caller]) -> str:
    """What is not as it should be yet; empty if nothing."""
    control = yard.controls[0]
    running = set(yard.pids)
    expected: set[str] = set()
    for caller in callers:
        try:
            found = await control.get(caller.id)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND and "" in caller.wanted.states:
                continue
            return f"{caller.id}: {error.code().name}"
        state = deployment_pb.State.Name(found.state).removeprefix("STATE_")
        if state not in caller.wanted.states:
            return f"{caller.id} is {state}; wanted {caller.wanted.states}"
        if found.replica_count not in caller.wanted.replicas:
            return f"{caller.id} has {found.replica_count} replicas: {caller.wanted.replicas}"
        if state != "TERMINATED":
            expected |= {
                f"{caller.id}.{index}.{found.instances[index].attempt}"
                for index in range(found.replica_count)
            }
    if running != expected:
        return f"runs: {sorted(running)}; expected: {sorted(expected)}"
    for id in {id for caller in callers for id in caller.runs | caller.unsure_runs}:
        unsure = any(id in caller.unsure_runs for caller in callers)
        try:
            run = await control.runs.GetRun(run_pb.GetRunRequest(name=f"runs/{id}"), timeout=CALL_S)
        except aio.AioRpcError as error:
            if unsure and error.code() is grpc.StatusCode.NOT_FOUND:
                continue
            return f"run {id}: {error.code().name}"
        if run.state != run_pb.RUN_STATE_SUCCEEDED or run.rows_done != ROWS:
            return (
                f"run {id}: {run_pb.RunState.Name(run.state)}, {run.rows_done} rows, {run.detail}"
            )
        results = await control.runs.ListResults(
            run_pb.ListResultsRequest(run=f"runs/{id}", page_size=1000), timeout=CALL_S
        )
        if [each.row for each in results.results] != list(range(ROWS)):
            return f"run {id} has {len(results.results)} results"
    return ""


@pytest.fixture
def mongod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mongod | None]:
    if request.param == "sqlite":
        yield None
        return
    with Mongod(tmp_path / "mongod", replica_set=True) as server:
        yield server


@pytest.mark.parametrize("mongod", ["sqlite", "mongodb"], indirect=True)
async def test_chaos_among_controllers_loses_nothing(
    models: Path, tmp_path: Path, mongod: Mongod | None
) -> None:
    store = f"sqlite:{tmp_path / 'store.db'}" if mongod is None else mongod.uri
    print(f"TRILLIUM_CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    with ExitStack() as cleaning:
        folder = Path(cleaning.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        cleaning.callback(end_all, folder)
        async with AsyncExitStack() as stack:
            yard = Yard(store, models, folder, stack)
            for index in range(2):
                await yard.start(index)
            callers = [
                Caller(number, yard, random.Random(SEED * 1000 + number))
                for number in range(CALLERS)
            ]
            hurting = asyncio.create_task(hurt(yard, chance, mongod, callers))

            async def calling(caller: Caller) -> None:
                while not hurting.done():
                    await caller.once()
                    await asyncio.sleep(0)

            await asyncio.gather(*map(calling, callers))
            assert await hurting >= 3
            assert sum(each.acknowledged for each in callers) > 20
            wrong = "not looked yet"

            async def is_right() -> bool:
                nonlocal wrong
                wrong = await what_is_wrong(yard, callers)
                return not wrong

            try:
                await eventually(is_right, HEALED_S)
            except AssertionError:
                pytest.fail(f"seed {SEED}: {wrong}")
