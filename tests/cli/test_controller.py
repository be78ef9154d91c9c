"""What the command asks of a controller, against one in this process that has no models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.app import running_controller
from controller.config import ControllerConfig
from trillium.cli.up.deployments import load_all
from trillium.client.controller import AsyncControllerClient
from trillium.server.process import StartFailed


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncControllerClient]:
    """A client of a controller that is up."""
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{tmp_path / 'store.db'}")
    async with (
        running_controller(config) as controller,
        AsyncControllerClient(controller.address) as client,
    ):
        yield client


async def test_a_load_that_is_refused_names_deployment_and_model(
    client: AsyncControllerClient,
) -> None:
    said: list[str] = []
    with pytest.raises(
        StartFailed, match=r"deployment m-0-\w+ of 0 cannot be loaded: no model .0."
    ):
        await load_all(client, ["0"], said.append)
    assert len(said) == 1
    assert said[0].startswith("creating deployment: m-0-")


async def test_an_unreachable_controller_is_named_by_its_address() -> None:
    async with AsyncControllerClient("127.0.0.1:1") as client:
        with pytest.raises(StartFailed, match=r"does not respond: .*127\.0\.0\.1:1"):
            await load_all(client, ["e-a"], lambda line: None)
