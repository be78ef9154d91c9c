"""What callers and machines notice of a controller at work: no failed call, no lost memory."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from tests.acceptance.controllers import (
    Control,
    aggregating,
    children_of,
    controlling,
    predictors_at,
    resident_bytes,
    traffic,
)
from tests.acceptance.iris import IRIS, ROW, answer_of, ensemble
from tests.artifacts import large, two_column_tensor
from tests.rpc.errors import failed
from tests.store.mongod import Mongod
from tests.waiting import eventually
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

STORE_AWAY_S = 10.0
RESTED_S = 0.1
"""Callers who rest so long after each answer leave the machine to other tests."""


# As many take minutes where many share the machine.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("times", "predictions", "rest_s"),
    [(1, 1_000, RESTED_S), pytest.param(5, 10_000, 0.0, marks=pytest.mark.thorough)],
)
async def test_callers_predict_through_all_changes_and_none_fails(
    models: Path, tmp_path: Path, times: int, predictions: int, rest_s: float
) -> None:
    old, new = answer_of(models), answer_of(models, setosa=two_column_tensor())
    assert not np.allclose(old, new, atol=1e-3)
    async with controlling(f"sqlite:{tmp_path / 'c.db'}", f"--models-dir={models}") as control:
        await ensemble(control, setosa=2)
        async with (
            aggregating(control, *IRIS) as address,
            traffic(address, ROW, old, new, rest_s=rest_s) as seen,
        ):
            await seen.goes_on()

            async def changed(name: str, change: Awaitable[Any]) -> None:
                before, began = seen.count, time.monotonic()
                await change
                took, during = time.monotonic() - began, seen.count - before
                await seen.goes_on()
                print(f"{name}: {during} predictions during {took:.2f} s")

            version = await control.register("iris-setosa", two_column_tensor())
            await changed("replaced", control.load("setosa", newest_version=True))
            assert (await control.get("setosa")).model_version == version == 2
            for _ in range(times):
                await changed("replaced", control.load("setosa", model_version=1))
                await changed("replaced", control.load("setosa", newest_version=True))
            for replicas in (3, 1, 2):
                await changed("scaled", control.update("setosa", replica_count=replicas))
                shown = (await control.get("setosa")).instances
                serving = [each for each in shown if each.address]
                assert len(serving) == replicas
            await changed("created", control.create("more", "iris-setosa", replica_count=2))
            for _ in range(times):
                await changed("loaded", control.load("more"))
                await changed("unloaded", control.unload("setosa"))
                await changed("loaded", control.load("setosa"))
                await changed("unloaded", control.unload("more"))
            await changed("loaded", control.load("more"))
            await changed("terminated", control.terminate("setosa"))
            await eventually(lambda: seen.count >= predictions or bool(seen.failures), 600)
            seen.check()
            print(f"{seen.count} predictions, {len(seen.failures)} failed")


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.thorough)])
async def test_loads_and_unloads_leave_memory_as_it_was(
    models: Path, tmp_path: Path, count: int
) -> None:
    async with controlling(f"sqlite:{tmp_path / 'c.db'}", f"--models-dir={models}") as control:
        address = (await control.create("a1")).instances[0].address
        (pid,) = predictors_at(address)

        async def cycles(count: int) -> tuple[int, int]:
            """Memory with and without the model after so many times."""
            loaded = 0
            for _ in range(count):
                await control.load("a1")
                loaded = resident_bytes(pid)
                await control.unload("a1")
            return loaded, resident_bytes(pid)

        loaded, unloaded = await cycles(10)
        later_loaded, later_unloaded = await cycles(count)
        assert predictors_at(address) == [pid]
        drifts = (later_loaded / loaded - 1, later_unloaded / unloaded - 1)
        print(f"{unloaded / 2**20:.1f} MiB; drifts {drifts[0]:+.2%} loaded, {drifts[1]:+.2%} not")
        assert max(drifts) < 0.02


# tests/predictor/test_process.py has the short form, of a predictor without a controller.
@pytest.mark.thorough
async def test_an_unload_of_a_large_model_gives_its_memory_back(tmp_path: Path) -> None:
    async with controlling(f"sqlite:{tmp_path / 'c.db'}") as control:
        await control.register("small", two_column_tensor())
        await control.register("large", large(200))
        address = (await control.create("a1", "large")).instances[0].address
        (pid,) = predictors_at(address)
        before = resident_bytes(pid)
        await control.load("a1")
        loaded = resident_bytes(pid)
        await control.unload("a1")
        after = resident_bytes(pid)
        given_back = (loaded - after) / (loaded - before)
        sizes = " MiB, ".join(f"{each / 2**20:.0f}" for each in (before, loaded, after))
        print(f"before, loaded, after: {sizes} MiB; {given_back:.1%} given back")
        assert loaded - before > 190 * 2**20
        assert given_back >= 0.95


@pytest.mark.parametrize("rest_s", [RESTED_S, pytest.param(0.0, marks=pytest.mark.thorough)])
async def test_mongod_may_be_killed_for_ten_seconds(
    models: Path, tmp_path: Path, rest_s: float
) -> None:
    # The server ends with the thread that starts it; ours is for the callers.
    with ThreadPoolExecutor(1) as starter, Mongod(tmp_path / "mongod", replica_set=True) as mongod:
        async with controlling(mongod.uri, f"--models-dir={models}") as control:
            await ensemble(control, setosa=2)
            before = {label: await control.get(label) for label in IRIS}
            addresses = [each.address for label in IRIS for each in before[label].instances]
            pids = [predictors_at(address) for address in addresses]
            async with (
                aggregating(control, *IRIS) as address,
                traffic(address, ROW, answer_of(models), rest_s=rest_s) as seen,
            ):
                await seen.goes_on()
                await control.create("later", no_wait=True)
                mongod.kill()
                killed = time.monotonic()
                failures = await asyncio.gather(*(failed(ask()) for ask in _every_verb(control)))
                for failure in failures:
                    assert (failure.code, failure.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
                told = time.monotonic()
                await seen.goes_on()
                # One of the two that there are of the class: the other one answers.
                os.kill(pids[0][0], signal.SIGKILL)
                await seen.goes_on(100)
                await seen.goes_on_until(killed + STORE_AWAY_S)
                # Nothing is stopped and nothing is made that could not be written down before.
                assert [predictors_at(each) for each in addresses[1:]] == pids[1:]
                assert len(children_of(control.server.pid)) <= len(addresses)
                await asyncio.get_running_loop().run_in_executor(starter, mongod.start)
                back = time.monotonic()
                await eventually(lambda: _is_whole(control, "later"))
                whole = time.monotonic()
                await seen.goes_on()
                pause_s = seen.longest_pause_s(killed, whole)
                print(f"down for {back - killed:.1f} s; verbs told in {told - killed:.1f} s")
                print(f"whole after {whole - back:.1f} s")
                print(f"{seen.count} predictions, none failed; longest pause {pause_s:.2f} s")
            seen.check()
            for label in IRIS:
                now = await control.get(label)
                changed = 1 if label == "setosa" else 0
                attempts = sorted(each.attempt for each in now.instances)
                known = sorted(each.attempt for each in before[label].instances)
                assert sum(attempts) == sum(known) + changed
            assert [predictors_at(each) for each in addresses[1:]] == pids[1:]
            # One for each instance, and one more for what was asked for before.
            assert len(children_of(control.server.pid)) == len(addresses) + 1
            await control.terminate("setosa")


def _every_verb(control: Control) -> tuple[Callable[[], Awaitable[Any]], ...]:
    return (
        lambda: control.create("other"),
        lambda: control.unload("setosa"),
        lambda: control.get("setosa"),
        lambda: control.load("virginica", newest_version=True),
        lambda: control.deployments.ListDeployments(pb.ListDeploymentsRequest(), timeout=60),
    )


async def _is_whole(control: Control, created: str) -> bool:
    """Whether everything is as it was asked before the store went away."""
    try:
        states = [(await control.get(label)).state for label in IRIS]
        later = (await control.get(created)).state
    except aio.AioRpcError:
        return False
    loaded, idle = deployment_pb.STATE_LOADED, deployment_pb.STATE_CREATED
    return states == [loaded] * 3 and later == idle
