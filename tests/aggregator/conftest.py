"""Models for the tests of the aggregator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trained import trained


@pytest.fixture(scope="module", autouse=True)
def time_for_the_answer() -> Iterator[None]:
    """Keep a quarter of a caller's time for the answer that names who was late.

    The 50 ms at most that are kept in earnest are too little where tests share the machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregator.plan.RESERVE_SHARE", 0.25)
        patch.setattr("aggregator.plan.RESERVE_MOST_S", 2.0)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts of iris and digits."""
    return trained(tmp_path_factory, "iris", "digits")
