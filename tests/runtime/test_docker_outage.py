"""The docker runtime when its engine hangs, dies and comes back, on an engine of the tests' own."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from controller.runtime.docker import DockerRuntime
from controller.runtime.port import ContainerSpec, ContainerState, RuntimeUnreachable
from controller.runtime.process import ProcessRuntime
from tests.freezing import freeze
from tests.runtime.conftest import OpenDocker
from tests.runtime.engine import ApartEngine
from tests.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

A1 = ContainerSpec("a1", instance=0, attempt=1)
B1 = ContainerSpec("b1", instance=0, attempt=1)
TIMEOUT_S = 4
BOUND_S = 3 * TIMEOUT_S + 20.0
"""What a call may take at most, and a while for a busy machine."""


@pytest.fixture
async def runtime(open_docker: OpenDocker, apart: ApartEngine) -> AsyncIterator[DockerRuntime]:
    """A runtime on the engine apart, whatever was done to it before, with one container."""
    apart.start()
    runtime = await open_docker(apart.base_url, network="none", timeout_s=TIMEOUT_S)
    await eventually(lambda: is_looking(runtime))
    await runtime.create(A1)
    try:
        yield runtime
    finally:
        with suppress(ProcessLookupError):
            apart.send(signal.SIGCONT)
        apart.start()


async def is_looking(runtime: DockerRuntime) -> bool:
    try:
        await runtime.look()
    except RuntimeUnreachable:
        return False
    return True


async def took_s(runtime: DockerRuntime, container_id: str) -> dict[str, float]:
    """How long each call took until it said that the engine does not answer."""

    async def timed(call: object) -> float:
        began = time.monotonic()
        with pytest.raises(RuntimeUnreachable):
            await call  # type: ignore[misc]
        return time.monotonic() - began

    calls = {
        "look": runtime.look(),
        "create": runtime.create(B1),
        "remove": runtime.remove(container_id, grace_s=0),
        "logs": runtime.logs(container_id),
        # More than there are workers.
        **{f"look {number}": runtime.look() for number in range(12)},
    }
    times = await asyncio.gather(*(timed(call) for call in calls.values()))
    return dict(zip(calls, times, strict=True))


async def longest_pause_s(stop: asyncio.Event) -> float:
    """The longest time for which the event loop did nothing else."""
    longest, last = 0.0, time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


async def test_an_engine_that_hangs_is_unreachable_in_time_and_holds_up_nothing_else(
    runtime: DockerRuntime, apart: ApartEngine, processes: ProcessRuntime
) -> None:
    (before,) = await runtime.look()
    stop = asyncio.Event()
    pauses = asyncio.create_task(longest_pause_s(stop))
    freeze(apart.pid)
    try:
        calls = asyncio.create_task(took_s(runtime, before.id))
        await processes.create(A1)
        (child,) = await processes.look()
        await processes.remove(child.id)
        assert not calls.done()
        times = await calls
        (server,) = await runtime.servers()
    finally:
        apart.send(signal.SIGCONT)
    stop.set()
    assert max(times.values()) < BOUND_S
    assert not server.reachable
    assert "did not answer" in server.detail
    assert await pauses < TIMEOUT_S / 2
    await eventually(lambda: is_looking(runtime))
    # Asked while it hung, both may be carried out yet: what is there is ours, and whole.
    await runtime.create(A1)
    assert A1.deployment in {each.deployment for each in await runtime.look()}


async def test_a_runtime_can_be_closed_while_its_engine_hangs(
    runtime: DockerRuntime, apart: ApartEngine
) -> None:
    looks = [asyncio.create_task(runtime.look()) for _ in range(12)]
    freeze(apart.pid)
    try:
        looks += [asyncio.create_task(runtime.look()) for _ in range(12)]
        await asyncio.sleep(0)
        async with asyncio.timeout(BOUND_S + 2):
            await runtime.close()
            await asyncio.gather(*looks, return_exceptions=True)
    finally:
        apart.send(signal.SIGCONT)


async def test_containers_outlive_an_engine_that_is_killed_and_changes_come_back(
    runtime: DockerRuntime, apart: ApartEngine
) -> None:
    (before,) = await runtime.look()
    async with aclosing(runtime.changes()) as changes:
        await anext(changes)
        apart.send(signal.SIGKILL)
        await eventually(lambda: is_gone(runtime))
        with pytest.raises(RuntimeUnreachable, match="no engine answers"):
            await runtime.look()
        await asyncio.to_thread(apart.start)
        await eventually(lambda: is_looking(runtime))
        # What woke while the engine died is over; the next wake is from the engine that is back.
        async with asyncio.timeout(60):
            await anext(changes)
            await runtime.create(B1)
            async for _ in changes:
                if len(await runtime.look()) == 2:
                    break
    after = {each.id: each for each in await runtime.look()}
    assert after[before.id].state is ContainerState.RUNNING
    await runtime.remove(before.id)
    assert before.id not in {each.id for each in await runtime.look()}


async def is_gone(runtime: DockerRuntime) -> bool:
    return not await is_looking(runtime)
