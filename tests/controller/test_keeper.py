"""The keeper of ensembles goes on, and keeps its pace, whatever is wrong with one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.deployments.document import Deployment
from controller.deployments.repository import Deployments
from controller.deployments.verbs import Command, Verb
from controller.ensembles import keeper
from controller.ensembles.document import ClassModel
from controller.ensembles.keeper import EnsembleKeeper
from controller.ensembles.repository import EnsembleRepository
from controller.ensembles.steps import step
from controller.ensembles.verbs import Application
from controller.failpoints import Failpoints
from controller.store.records import Stored
from controller.store.sqlite import SqliteStore
from tests.waiting import eventually
from trillium.clock import SystemClock
from trillium.errors import DeploymentNotFound

MODELS = (ClassModel("a", "m-a", 1, "a" * 64),)


class Records:
    """The ensembles and deployments of a store, and how often a deployment was commanded."""

    def __init__(self, store: SqliteStore) -> None:
        self.clock = SystemClock()
        self.ensembles = EnsembleRepository(store, self.clock)
        self.deployments = Deployments(store, self.clock)

    def keeper(self) -> EnsembleKeeper:
        return EnsembleKeeper(self.ensembles, self.deployments, self.clock, Failpoints({}))

    async def held(self, id: str) -> list[str]:
        stored = await self.ensembles.get(id)
        assert stored is not None
        return [hold.deployment for hold in stored.value.holds]

    async def deployed(self, id: str) -> bool:
        """Whether every deployment that an ensemble holds was made."""
        held = await self.held(id)
        return bool(held) and all([await self.deployments.get(each) for each in held])


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    store = SqliteStore(tmp_path / "s.db")
    await store.open()
    yield Records(store)
    await store.close()


async def test_a_defect_in_one_ensemble_keeps_the_others_from_nothing(
    records: Records, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def flawed(ensemble: object, *rest: object) -> object:
        nonlocal calls
        if getattr(ensemble, "id", "") == "bad":
            calls += 1
            raise ZeroDivisionError("as a defect would")
        return step(ensemble, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(keeper, "step", flawed)
    async with records.keeper().running():
        for id in ("bad", "good"):
            await records.ensembles.apply(Application(id, MODELS, {}), "x1")
        await eventually(lambda: records.deployed("good"))
        # Again after a pause, and not at once.
        assert calls < 5
    assert "ensemble not tended" in caplog.text


async def test_a_command_that_fails_is_repeated_with_a_pace(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, works = 0, False
    apply = records.deployments.apply

    async def failing(command: Command) -> Stored[Deployment]:
        nonlocal calls
        calls += 1
        if works:
            return await apply(command)
        raise DeploymentNotFound("for a while")

    monkeypatch.setattr(records.deployments, "apply", failing)
    async with records.keeper().running():
        await records.ensembles.apply(Application("iris", MODELS, {}), "x1")
        await eventually(lambda: calls == 3)
        works = True
        await eventually(lambda: records.deployed("iris"))
        assert calls <= 5


async def test_an_id_that_somebody_else_has_taken_is_left_to_him(records: Records) -> None:
    await records.ensembles.apply(Application("iris", MODELS, {}), "x1")
    async with records.keeper().running():
        await eventually(lambda: records.deployed("iris"))
    (first,) = await records.held("iris")
    assert first == "iris-a-x1-1"
    other = (ClassModel("a", "m-a", 2, "b" * 64),)
    deployment = await records.deployments.get(first)
    assert deployment is not None
    taken = Command(Verb.CREATE, "iris-a-x1-2", deployment.value.spec)
    await records.deployments.apply(taken)
    await records.ensembles.apply(Application("iris", other, {}), "x1")
    async with records.keeper().running():
        await eventually(lambda: has_third(records))
    foreign = await records.deployments.get("iris-a-x1-2")
    assert foreign is not None
    assert foreign.value.owner == ""


async def has_third(records: Records) -> bool:
    return "iris-a-x1-3" in await records.held("iris") and await records.deployed("iris")
