"""Models for the acceptance tests, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.train_models import main as train_models
from tests.artifacts import slow


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris, and `slow.onnx`, which runs for about 0.2 s."""
    folder = tmp_path_factory.mktemp("acceptance")
    assert train_models(["--output", str(folder)]) == 0
    (folder / "slow.onnx").write_bytes(slow(200))
    return folder
