"""What all tests share: container engines, none of which is started before a test asks for it,
patience on machines that are busy, and little garbage to collect."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.runtime.engine import ApartEngine, engine_apart, find_engine
from tests.runtime.serving import pids_with

# How fast a machine makes up examples says nothing about what is tested. The examples are the same
# in each run: whoever looks for new ones asks for the profile "searching".
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", settings.get_profile("searching"), derandomize=True)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Leave what collection has made out of every garbage collection to come: there are several in
    each test, and they took half of the CPU time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def engine() -> str:
    """The address of an engine that has the image."""
    return find_engine()


@pytest.fixture(scope="session")
def apart(engine: str) -> Iterator[ApartEngine]:
    """An engine that may be stopped and killed."""
    # Not pytest's own folder: its path is too long for sockets.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    with engine_apart(folder, engine) as started:
        yield started
    assert pids_with(str(folder)) == []
