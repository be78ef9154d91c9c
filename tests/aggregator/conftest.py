"""Models for the tests of the aggregator, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.train_models import main as train_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris and digits."""
    folder = tmp_path_factory.mktemp("models")
    for ensemble in ("iris", "digits"):
        assert train_models(["--ensemble", ensemble, "--output", str(folder)]) == 0
    return folder
