"""Models, and the systems that the gateway's tests call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.gateway.serving import System, serving_system
from tests.trained import trained


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained iris models."""
    return trained(tmp_path_factory, "iris")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def iris(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """The iris ensemble, a controller without any model, and a gateway, for a whole module."""
    async with serving_system(models, tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stocked(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """The same, but the controller's catalog holds the iris models."""
    folder = tmp_path_factory.mktemp("system")
    async with serving_system(models, folder, models_dir=models) as system:
        yield system
