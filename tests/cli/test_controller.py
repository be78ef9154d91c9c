"""What the command asks of a controller, against one in this process that has no models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.app import running_controller
from controller.config import ControllerConfig
from trillium.cli.up.ensembles import load_ensembles
from trillium.cli.up.plan import Plan
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


def plan_in(folder: Path) -> Plan:
    return Plan(ensembles=("e",), models=folder, demo=True, port=1, controller_port=2, state=folder)


async def test_models_that_are_not_registered_make_no_ensemble(
    client: AsyncControllerClient, tmp_path: Path
) -> None:
    said: list[str] = []
    files = {"e": [tmp_path / "e-a.onnx"]}
    with pytest.raises(StartFailed, match="no model of e is registered"):
        await load_ensembles(plan_in(tmp_path), files, client, said.append)
    assert said == []


async def test_an_unreachable_controller_is_named_by_its_address(tmp_path: Path) -> None:
    files = {"e": [tmp_path / "e-a.onnx"]}
    async with AsyncControllerClient("127.0.0.1:1") as client:
        with pytest.raises(StartFailed, match=r"does not respond: .*127\.0\.0\.1:1"):
            await load_ensembles(plan_in(tmp_path), files, client, lambda line: None)
