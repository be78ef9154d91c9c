"""The crash matrix on a container engine: what runs outlives its controller, and is adopted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.containers import Containers, containers_on
from tests.acceptance.crashes import CHAINS, Chain, check_healed, matrix
from trillium.controller.v1 import deployment_pb2 as deployment_pb

# The chains share the machine, and the first test may wait for all of them.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]

HEALED_S = 30.0
"""Within so long of the next controller's start, all must be well; a quiet one needs a third."""
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
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("crashes")

        def yard() -> OnEngine:
            return OnEngine(stack.enter_context(containers_on(engine)))

        # Deaths while recovering are in the matrix of processes; here each recovery is measured.
        async with matrix(models, folder, yard, heals_each=True) as tasks:
            yield tasks


@pytest.mark.parametrize("name", CHAINS)
async def test_whatever_controllers_die_of_the_next_one_adopts_and_heals(
    chains: dict[str, asyncio.Task[Chain]], name: str
) -> None:
    chain = await check_healed(name, chains[name])
    assert max(chain.recoveries) < HEALED_S
    assert chain.adopted > 0 or name not in ADOPTING
