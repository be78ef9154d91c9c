"""What the tests of the Open Inference Protocol share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.aggregator.serving import IRIS, Aggregated, whole_ensemble
from tests.predictor.serving import Served, serving
from tests.trained import trained


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris."""
    return trained(tmp_path_factory, "iris")


@pytest.fixture
async def aggregator(models: Path) -> AsyncIterator[Aggregated]:
    """An aggregator before three real predictors."""
    async with whole_ensemble(models, "iris", IRIS) as served:
        yield served


@pytest.fixture
async def predictor(models: Path) -> AsyncIterator[Served]:
    """A predictor that can read the artifacts of iris, and has loaded setosa's."""
    path = models / "iris-setosa.onnx"
    async with serving(model=path, models_dir=models) as served:
        yield served
