"""Models, datasets and runs are deleted when nothing uses them; their bytes go, others' stay."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.catalog.catalog import Catalog
from controller.catalog.collecting import GRACE, BlobCollector
from controller.catalog.trial import Trial
from controller.failpoints import Failpoints
from controller.runs.repository import Runs
from controller.store.port import Log
from controller.store.sqlite import SqliteStore
from tests.artifacts import renamed_opset, two_column_tensor
from tests.controller.run_fakes import InProcessRuntime, MovableClock
from tests.controller.serving import CALL_S, MODEL, Serving, serving_flowers
from tests.rpc.errors import failed
from tests.waiting import eventually
from trillium.clock import SystemClock
from trillium.controller.v1 import catalog_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

NONE = Failpoints({})
FIRST, SECOND, THIRD = two_column_tensor(), renamed_opset(13), renamed_opset(14)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class World:
    """A controller, and its store and clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = MovableClock()
        self.store = SqliteStore(folder / "store.db", clock=self.clock)
        self.runtime = InProcessRuntime()
        self.up: Any = None

    async def delete_model(self, version: int = 0, *, name: str = MODEL, **fields: Any) -> int:
        if version:
            one = pb.DeleteModelVersionRequest(name=name, version=version, **fields)
            call = self.up.catalog.DeleteModelVersion(one, timeout=CALL_S)
        else:
            request = pb.DeleteModelRequest(name=name, **fields)
            call = self.up.catalog.DeleteModel(request, timeout=CALL_S)
        return int((await call).freed_bytes)

    async def delete_dataset(self, name: str, **fields: Any) -> int:
        request = pb.DeleteDatasetRequest(name=name, **fields)
        return int((await self.up.catalog.DeleteDataset(request, timeout=CALL_S)).freed_bytes)

    async def delete_run(self, id: str, **fields: Any) -> int:
        request = run_pb.DeleteRunRequest(name=f"runs/{id}", **fields)
        return int((await self.up.runs.DeleteRun(request, timeout=CALL_S)).deleted_rows)

    async def run(self, id: str, **fields: Any) -> run_pb.Run:
        request = run_pb.CreateRunRequest(run_id=id, model=MODEL, dataset="iris", **fields)
        run: run_pb.Run = await self.up.runs.CreateRun(request, timeout=CALL_S)
        return run

    async def versions(self, name: str = MODEL) -> list[int]:
        answer = await self.up.catalog.ListModels(pb.ListModelsRequest(), timeout=CALL_S)
        (model,) = (each for each in answer.models if each.name == name)
        return [each.version for each in model.versions]

    async def datasets(self) -> list[str]:
        answer = await self.up.catalog.ListDatasets(pb.ListDatasetsRequest(), timeout=CALL_S)
        return [each.name for each in answer.datasets]

    async def collect(self) -> None:
        catalog = Catalog(self.store, self.clock, Trial())
        await BlobCollector(self.store, catalog, self.clock).collect()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with serving_flowers(
        tmp_path, store=world.store, runtime=world.runtime, clock=world.clock
    ) as up:
        world.up = up
        yield world


async def test_a_model_in_use_is_named_with_its_users_and_stays(world: World) -> None:
    up: Serving = world.up
    await asyncio.gather(up.create("d1"), up.load("d2", model=MODEL))
    refused = await failed(world.delete_model())
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "IN_USE")
    assert "deployment 'd1', deployment 'd2'" in refused.message
    assert (await failed(world.delete_model(validate_only=True))).reason == "IN_USE"
    # One that is being terminated needs its model no more, however long that takes.
    removing = asyncio.Event()
    remove = world.runtime.remove

    async def remove_late(container_id: str, *, grace_s: float = 10.0) -> None:
        await removing.wait()
        await remove(container_id, grace_s=grace_s)

    world.runtime.remove = remove_late  # type: ignore[method-assign]
    ending = [asyncio.ensure_future(up.terminate(id)) for id in ("d1", "d2")]
    terminating = deployment_pb.STATE_TERMINATING
    await asyncio.gather(*(up.becomes(id, terminating) for id in ("d1", "d2")))
    assert await world.delete_model(validate_only=True) == len(FIRST)
    removing.set()
    await asyncio.gather(*ending)
    assert await world.versions() == [1]
    assert await world.delete_model() == len(FIRST)
    assert (await failed(up.create("d3"))).reason == "MODEL_NOT_FOUND"
    assert (await failed(world.delete_model())).reason == "MODEL_NOT_FOUND"
    # A deployment that has ended, and knows the model still, begins anew only with another one.
    refused = await failed(up.load("d2"))
    assert refused.reason in ("MODEL_NOT_FOUND", "DEPLOYMENT_FAILED")
    assert "'flowers'" in refused.message


async def test_a_run_that_has_not_ended_uses_its_model_and_dataset(world: World) -> None:
    world.runtime.may_create.clear()
    await world.run("r1", no_wait=True)
    assert "run 'r1'" in (await failed(world.delete_model())).message
    in_use = await failed(world.delete_dataset("iris"))
    assert (in_use.reason, "run 'r1'" in in_use.message) == ("IN_USE", True)
    running = await failed(world.delete_run("r1"))
    assert (running.reason, "legal: cancel" in running.message) == ("ILLEGAL_STEP", True)
    cancel = run_pb.CancelRunRequest(name="runs/r1")
    await world.up.runs.CancelRun(cancel, timeout=CALL_S)
    world.runtime.may_create.set()
    assert await world.delete_dataset("iris", validate_only=True) > 0
    assert await world.datasets() == ["iris"]
    assert await world.delete_dataset("iris") > 0
    assert await world.datasets() == []
    assert (await failed(world.delete_dataset("iris"))).reason == "DATASET_NOT_FOUND"
    assert await world.delete_run("r1") == 0


async def test_numbers_of_versions_are_never_given_twice(world: World) -> None:
    up: Serving = world.up
    assert [await up.register(MODEL, each) for each in (SECOND, THIRD)] == [2, 3]
    assert await world.delete_model(3) == len(THIRD)
    assert await world.delete_model(1) == len(FIRST)
    assert await world.versions() == [2]
    only = await failed(world.delete_model(2))
    assert (only.reason, "only one" in only.message) == ("IN_USE", True)
    gone = await failed(up.create("d1", model_version=3))
    assert (gone.reason, "there: 2 to 2" in gone.message) == ("MODEL_NOT_FOUND", True)
    missing = await failed(world.delete_model(3))
    assert missing.reason == "MODEL_NOT_FOUND"
    assert await up.register(MODEL, THIRD) == 4
    assert await world.versions() == [2, 4]
    created = await up.create("d1")
    assert created.model_version == 4
    assert (await failed(world.delete_model(4))).reason == "IN_USE"
    assert await world.delete_model(2) == len(SECOND)


async def test_version_zero_is_not_all_of_them(world: World) -> None:
    request = pb.DeleteModelVersionRequest(name=MODEL)
    refused = await failed(world.up.catalog.DeleteModelVersion(request, timeout=CALL_S))
    assert (refused.reason, list(refused.fields)) == ("INVALID_REQUEST", ["version"])
    assert await world.versions() == [1]


async def test_a_deployment_whose_version_goes_meanwhile_says_so(world: World) -> None:
    up: Serving = world.up
    await up.create("d1")
    # As when somebody else had it deleted at the very moment of the creation.
    await Catalog(world.store, world.clock, Trial()).remove_model(MODEL)
    refused = await failed(up.load("d1"))
    assert refused.reason == "DEPLOYMENT_FAILED"
    assert "no model 'flowers'" in refused.message
    assert (await up.get("d1")).state == deployment_pb.STATE_FAILED


async def test_a_deleted_run_is_gone_with_its_results(world: World) -> None:
    ended = await world.run("r1")
    assert ended.state == run_pb.RUN_STATE_SUCCEEDED
    assert await world.delete_run("r1", validate_only=True) == 150
    stored = await Runs(world.store, world.up.controller.deployments, world.clock, NONE).found("r1")
    life = stored.value.life
    assert await world.store.read(Log.RESULT, life, limit=1)
    assert await world.delete_run("r1") == 150
    assert await world.store.read(Log.RESULT, life, limit=1) == []
    get = run_pb.GetRunRequest(name="runs/r1")
    assert (await failed(world.up.runs.GetRun(get, timeout=CALL_S))).reason == "RUN_NOT_FOUND"
    assert (await failed(world.delete_run("r1"))).reason == "RUN_NOT_FOUND"
    again = await world.run("r1")
    assert again.rows_done == 150


async def test_bytes_go_once_nothing_names_them(world: World) -> None:
    up: Serving = world.up
    await up.register("same", FIRST)
    await up.register(MODEL, SECOND)
    assert await world.delete_model(1) == 0
    assert await world.delete_model() == len(SECOND)
    await world.collect()
    assert (await world.store.blobs())[digest_of(FIRST)] is None
    assert (await world.store.blobs())[digest_of(SECOND)] is not None
    # In use again, in time.
    await up.register("other", SECOND)
    await world.collect()
    assert (await world.store.blobs())[digest_of(SECOND)] is None
    await world.delete_model(name="other")
    await world.collect()
    world.clock.move((GRACE + timedelta(minutes=1)).total_seconds())
    assert digest_of(SECOND) not in await world.store.blobs()
    assert await world.store.get_blob(digest_of(SECOND)) is None

    async def is_whole() -> bool:
        return await world.store.get_blob(digest_of(FIRST)) == FIRST

    await eventually(is_whole)
    assert await up.register(MODEL, SECOND) == 1
    assert (await up.load("d1", model=MODEL)).state == deployment_pb.STATE_LOADED


async def test_bytes_that_are_named_just_then_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are registered between the look at what names them and the end that they are given."""
    catalog = Catalog(world.store, SystemClock(), Trial())
    await world.store.put_blob(digest_of(THIRD), THIRD)
    expire = world.store.expire_blob
    registered: list[int] = []

    async def expire_late(digest: str, expires: Any) -> None:
        if not registered:
            registered.append(await world.up.register("late", THIRD))
        await expire(digest, expires)

    monkeypatch.setattr(world.store, "expire_blob", expire_late)
    await BlobCollector(world.store, catalog, world.clock).collect()
    assert registered == [1]
    assert (await world.store.blobs())[digest_of(THIRD)] is None
