"""The crash matrix where predictors are processes, which end with their controller."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.controllers import children_of, copy_of, predictors_at
from tests.acceptance.crashes import CHAINS, ELSEWHERE, check_healed, failpoints, flower_store
from trillium.controller.v1 import deployment_pb2 as deployment_pb

SHORT = ("create", "load", "unload", "run-score")
"""The chains that are carried out, without what comes before a write, when time is short."""

# A chain is many controllers, one after the other.
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
        return [str(pid) for pid in children_of(*dead)]

    async def survivors(self) -> list[str]:
        return []

    async def kill(self, instance: deployment_pb.Instance) -> None:
        (pid,) = predictors_at(instance.address)
        os.kill(pid, signal.SIGKILL)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The file of a store to begin with."""
    async with flower_store(tmp_path_factory.mktemp("crashes"), models) as store:
        yield store


@pytest.mark.parametrize("name", SHORT)
async def test_whatever_controllers_have_done_when_they_die_the_next_one_heals(
    store: Path, tmp_path: Path, name: str
) -> None:
    chain = CHAINS[name](Children())
    chain.points = [point for point in chain.points if "before-" not in point]
    await chain.apply(copy_of(store, tmp_path))
    check_healed(name, chain)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CHAINS)
async def test_whatever_controllers_die_of_the_next_one_heals(
    store: Path, tmp_path: Path, name: str
) -> None:
    chain = CHAINS[name](Children())
    await chain.apply(copy_of(store, tmp_path))
    check_healed(name, chain)


async def test_the_matrix_has_every_failpoint_there_is() -> None:
    have = {point for make in CHAINS.values() for point in make(Children()).points}
    assert failpoints() <= have | set(ELSEWHERE)
