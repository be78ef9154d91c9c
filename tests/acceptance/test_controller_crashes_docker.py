"""The crash matrix on a container engine: what runs outlives its controller, and is adopted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.containers import Containers, containers_on
from tests.acceptance.controllers import copy_of
from tests.acceptance.crash_chain import Chain
from tests.acceptance.crashes import CHAINS, check_healed, flower_store
from trillium.controller.v1 import deployment_pb2 as deployment_pb

# The chains share the machine, and the first test may wait for all of them.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]

HEALED_S = 60.0
"""Within so long of the next controller's start, all must be well; a quiet one needs a sixth."""
AT_ONCE = 3
"""Chains; their controllers wait more than they compute."""
ADOPTING = ("create", "load", "unload", "replace")
"""Chains whose controllers die while a container runs that is wanted."""


class OnEngine:
    """A Yard: the containers of an owner."""

    lasts = True
    refusal = "no-such-network"

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self.options: Sequence[str] = containers.options
        self.options_to_refuse: Sequence[str] = (*containers.options, f"--network={self.refusal}")

    async def everything(self, controller: int) -> list[str]:
        return [entry["Id"] for entry in await self._containers.all()]

    async def current(self, instance: deployment_pb.Instance) -> list[str]:
        running = await self._containers.running()
        name = f"a1.{instance.slot}.{instance.attempt}"
        return [running[name]] if running.get(name) == instance.container_id else []

    async def left_by(self, dead: Sequence[int]) -> list[str]:
        return []

    async def survivors(self) -> list[str]:
        return list((await self._containers.running()).values())

    async def kill(self, instance: deployment_pb.Instance) -> None:
        await self._containers.kill(instance.container_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chains(
    engine: str, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, asyncio.Task[Chain]]]:
    """All chains, on their way."""
    folder, turns = tmp_path_factory.mktemp("crashes"), asyncio.Semaphore(AT_ONCE)

    async def apply(name: str, seed: Path, containers: Containers) -> Chain:
        chain = CHAINS[name](OnEngine(containers))
        # Deaths while recovering are in the matrix of processes; here each recovery is measured.
        chain.heals_each = True
        async with turns:
            await chain.apply(copy_of(seed, folder / name))
        return chain

    with ExitStack() as stack:
        async with flower_store(folder, models) as store:
            tasks = {}
            for name in CHAINS:
                containers = stack.enter_context(containers_on(engine))
                tasks[name] = asyncio.create_task(apply(name, store, containers))
            try:
                yield tasks
            finally:
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("name", CHAINS)
async def test_whatever_controllers_die_of_the_next_one_adopts_and_heals(
    chains: dict[str, asyncio.Task[Chain]], name: str
) -> None:
    chain = await chains[name]
    check_healed(name, chain)
    assert max(chain.recoveries) < HEALED_S
    assert chain.adopted > 0 or name not in ADOPTING
