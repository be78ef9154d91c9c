"""Fixtures of the compose tests. One installation serves most of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.compose.mongo_image import mongo_variables
from tests.compose.system import System, installed


@pytest.fixture(scope="session")
def mongo(engine: str) -> Mapping[str, str]:
    """What tells compose.yaml which database to use."""
    return mongo_variables(engine)


@pytest.fixture(scope="session")
def system(engine: str, mongo: Mapping[str, str]) -> Iterator[System]:
    """An installation that is up. Each test leaves it as it was."""
    with installed(engine, mongo) as system:
        print(f"up after {system.up():.0f} s")
        yield system
