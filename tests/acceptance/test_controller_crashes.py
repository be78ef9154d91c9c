"""The crash matrix where predictors are processes, which end with their controller."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.controllers import children_of, predictors_at
from tests.acceptance.crashes import CHAINS, ELSEWHERE, Chain, check_healed, failpoints, matrix
from trillium.controller.v1 import deployment_pb2 as deployment_pb

# The chains share the machine, and the first test may wait for all of them.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


class Children:
    """A Yard: the child processes of controllers."""

    lasts = False
    options: Sequence[str] = ()
    options_to_refuse: Sequence[str] = ()
    refusal = "cannot be held to 1 cpus"

    async def everything(self, controller: int) -> list[str]:
        return [str(pid) for pid in children_of(controller)]

    async def current(self, instance: deployment_pb.Instance) -> list[str]:
        return [str(pid) for pid in predictors_at(instance.address)]

    async def left_by(self, dead: Sequence[int]) -> list[str]:
        return [str(pid) for each in dead for pid in children_of(each)]

    async def survivors(self) -> list[str]:
        return []

    async def kill(self, instance: deployment_pb.Instance) -> None:
        (pid,) = predictors_at(instance.address)
        os.kill(pid, signal.SIGKILL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chains(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, asyncio.Task[Chain]]]:
    """All chains, on their way."""
    async with matrix(models, tmp_path_factory.mktemp("crashes"), Children) as tasks:
        yield tasks


@pytest.mark.parametrize("name", CHAINS)
async def test_whatever_controllers_die_of_the_next_one_heals(
    chains: dict[str, asyncio.Task[Chain]], name: str
) -> None:
    await check_healed(name, chains[name])


async def test_the_matrix_has_every_failpoint_there_is() -> None:
    have = {point for make in CHAINS.values() for point in make(Children()).points}
    assert failpoints() <= have | set(ELSEWHERE)
