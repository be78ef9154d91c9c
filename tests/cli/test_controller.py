"""What the command asks of a controller, against one in this process that has no models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.app import running_controller
from controller.config import ControllerConfig
from trillium.cli.controller import ControllerCalls
from trillium.cli.loading import load_all
from trillium.errors import ModelNotFound, Unreachable
from trillium.process import StartFailed


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ControllerCalls]:
    """A client of a controller that is up."""
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{tmp_path / 'store.db'}")
    async with (
        running_controller(config) as controller,
        ControllerCalls(controller.address) as client,
    ):
        yield client


async def test_only_what_is_registered_is_a_dataset(client: ControllerCalls) -> None:
    assert await client.has_dataset("iris")
    assert not await client.has_dataset("wine")


async def test_a_fresh_controller_has_nothing(client: ControllerCalls) -> None:
    assert await client.deployments() == []
    assert await client.ensembles() == {}


async def test_errors_are_those_of_the_controller(client: ControllerCalls) -> None:
    with pytest.raises(ModelNotFound, match="no model 'e-a'"):
        await client.create("e-a", "e-a")
    with pytest.raises(ModelNotFound, match="no model 'e-a'"):
        await client.run("e-a", "iris")


async def test_a_load_that_is_refused_names_deployment_and_model(client: ControllerCalls) -> None:
    said: list[str] = []
    with pytest.raises(
        StartFailed, match=r"deployment m-0-\w+ of 0 cannot be loaded: no model .0."
    ):
        await load_all(client, ["0"], said.append)
    assert len(said) == 1
    assert said[0].startswith("creating and loading deployment: m-0-")


async def test_nobody_there_is_told_with_the_address() -> None:
    async with ControllerCalls("127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await client.deployments()
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await anext(client.changes())
        with pytest.raises(StartFailed, match="the controller cannot be asked"):
            await load_all(client, ["e-a"], lambda line: None)
