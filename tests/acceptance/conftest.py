"""Models for the acceptance tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.artifacts import slow
from tests.trained import trained


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris, and `slow.onnx`, which runs for about 0.2 s."""
    folder = trained(tmp_path_factory, "iris")
    (folder / "slow.onnx").write_bytes(slow(200))
    return folder
