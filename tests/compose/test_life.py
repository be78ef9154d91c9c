"""A whole installation: backed up, taken down to nothing, and brought back from the backup."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.compose.system import LABELS, Load, installed
from tests.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

SAVE = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", "mongo")
NAMES = ("--create", "--directory", "/data/db", ".")
EMPTY = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "find", "mongo")
EVERYTHING = ("/data/db", "-mindepth", "1", "-delete")
RESTORED = ("--extract", "--directory", "/data/db")
NOTHING = {"containers": 0, "made": 0, "networks": 0, "volumes": 0}


async def test_down_leaves_nothing_and_a_backup_brings_all_of_it_back(
    engine: str, mongo: Mapping[str, str]
) -> None:
    with installed(engine, mongo) as system:
        system.up()
        system.control("CreateDeployment", deployment_id="precious", model="iris-setosa")
        system.control("LoadDeployment", name="deployments/precious")
        await eventually(lambda: len(system.addresses()) == 4)

        # docs/operations.md: back up. Predictions flow meanwhile, from all predictors.
        with Load(system.aggregator) as load:
            system.compose("stop", "controller", "mongo")
            saved = system.compose(*SAVE, *NAMES).stdout
            await eventually(load.more())
            assert len(system.addresses()) == 4
            system.up("mongo", "controller")
        assert load.failures == []
        assert len(saved) > 100_000
        assert len(system.made()) == 1

        system.compose("down", "--volumes")
        assert system.left() == NOTHING
        del system.token  # Its volume is gone.

        # docs/operations.md: restore, here on an engine that has nothing of it.
        system.compose("create", "mongo")
        system.compose(*EMPTY, *EVERYTHING)
        system.compose(*SAVE, *RESTORED, given=saved)
        system.up()

        def is_back() -> bool:
            found = system.control("GetDeployment", name="deployments/precious")
            return bool(found["state"] == "STATE_LOADED")

        await eventually(is_back, 60)
        await eventually(lambda: len(system.addresses()) == 4)
        assert list(system.labels()) == LABELS
        assert len(system.made()) == 1

        # Without --volumes the state stays.
        system.compose("stop")
        assert len(system.made()) == 0
        system.compose("down")
        assert system.left() == NOTHING | {"volumes": 2}
