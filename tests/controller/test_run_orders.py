"""Orders of runs: what is refused, and what is the same run again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller.deployments.verbs import Command, Verb
from tests.artifacts import iris_rows
from tests.controller.run_world import (
    ORDER,
    World,
    open_world,
)
from trillium.errors import (
    DatasetNotFound,
    DeploymentNotFound,
    IllegalStep,
    InvalidRequest,
    ModelNotFound,
    RunExists,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def test_the_same_order_is_the_same_run_whatever_has_changed_since(world: World) -> None:
    controller = world.controller()
    first = await controller.place()
    world.catalog.datasets.clear()
    assert await controller.place() == first
    with pytest.raises(RunExists, match="another order"):
        await controller.place(order=replace(ORDER, dataset="bare"))


async def test_wrong_orders_are_refused_and_leave_nothing(world: World) -> None:
    world.catalog.add_dataset("narrow", iris_rows()[:, :3], names=("a", "b", "c"))
    world.catalog.add_dataset("strange", iris_rows(), names=("d", "c", "b", "e"))
    await world.loaded("a1")
    idle = Command(Verb.CREATE, "a2", (await world.catalog.model_version("iris-setosa", 0)).spec)
    await world.deployments.apply(idle)
    world.catalog.add_model("other", b"never opened")
    controller = world.controller()
    wrong: list[tuple[dict[str, str | int], type[Exception], str]] = [
        ({"model": "none"}, ModelNotFound, "none"),
        ({"model_version": 7}, ModelNotFound, "7"),
        ({"dataset": "none"}, DatasetNotFound, "none"),
        ({"dataset_version": 7}, DatasetNotFound, "7"),
        ({"deployment": "none"}, DeploymentNotFound, "none"),
        ({"deployment": "a2"}, IllegalStep, "load it first"),
        ({"deployment": "a1", "model": "other"}, InvalidRequest, "serves model 'iris-setosa'"),
        ({"dataset": "narrow"}, InvalidRequest, "no feature for: 'a', 'b', 'c'"),
        ({"dataset": "strange"}, InvalidRequest, "no feature for: 'd', 'c', 'b', 'e'"),
    ]
    for fields, error, text in wrong:
        with pytest.raises(error, match=text):
            await controller.place(order=replace(ORDER, **fields))  # type: ignore[arg-type]
    assert not await controller.runs.page()


async def test_another_version_than_the_deployment_serves_is_refused(world: World) -> None:
    await world.loaded("a1")
    world.catalog.add_model("iris-setosa", b"newer, never opened")
    controller = world.controller()
    run = await controller.place(order=replace(ORDER, deployment="a1"))
    assert run.model_version == 1
    with pytest.raises(InvalidRequest, match="serves version 1"):
        await controller.place("r2", replace(ORDER, deployment="a1", model_version=2))
