"""Models for the tests of the aggregator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trained import trained


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris and digits."""
    return trained(tmp_path_factory, "iris", "digits")
