"""A record that cannot be read is named and left as it is, and everything else goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from controller.catalog.catalog import Catalog
from controller.catalog.collecting import BlobCollector
from controller.catalog.trial import Trial
from controller.deployments.repository import Deployments
from controller.discovery.snapshot import Discovery
from controller.ensembles.repository import EnsembleRepository
from controller.store.port import Kind
from controller.store.sqlite import SqliteStore
from tests.artifacts import renamed_opset
from tests.controller.run_fakes import InProcessRuntime, MovableClock
from tests.controller.serving import CALL_S, MODEL, Serving, serving_flowers
from tests.controller.test_differences import following
from tests.rpc.errors import failed
from tests.waiting import eventually
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb


def broken(text: str) -> str:
    """As after a page of the file was lost."""
    return text[: len(text) // 2]


def of_a_later_version(text: str) -> str:
    """With a phase that this version does not know."""
    body = json.loads(text)
    body["slots"][0]["phase"] = "hibernating"
    return json.dumps(body)


def without_a_spec(text: str) -> str:
    body = json.loads(text)
    del body["spec"]
    return json.dumps(body)


class Damaged:
    """Changes records behind the back of their controller."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.db"
        self._sound: dict[tuple[str, str], str] = {}

    def change(self, table: str, id: str, how: Callable[[str], str] = broken) -> str:
        """Damage a record; returns the text that it has then."""
        with closing(sqlite3.connect(self._path)) as file:
            (text,) = file.execute(f"SELECT body FROM {table} WHERE id = ?", (id,)).fetchone()
            self._sound.setdefault((table, id), text)
            file.execute(
                f"UPDATE {table} SET body = ?, rev = rev + 1 WHERE id = ?", (how(text), id)
            )
            file.commit()
        return self.text(table, id)

    def restore(self, table: str, id: str) -> None:
        """Undo the change of a record."""
        self.change(table, id, lambda _: self._sound[table, id])

    def text(self, table: str, id: str) -> str:
        with closing(sqlite3.connect(self._path)) as file:
            return str(file.execute(f"SELECT body FROM {table} WHERE id = ?", (id,)).fetchone()[0])


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        yield up


async def listed(up: Serving) -> tuple[set[str], dict[str, str]]:
    answer = await up.stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=CALL_S)
    names = {each.name.removeprefix("deployments/") for each in answer.deployments}
    return names, {each.name: each.detail for each in answer.unreadable}


@pytest.mark.parametrize("how", [broken, of_a_later_version, without_a_spec])
async def test_a_deployment_that_cannot_be_read_is_set_aside(
    tmp_path: Path, how: Callable[[str], str]
) -> None:
    runtime, damaged = InProcessRuntime(), Damaged(tmp_path)
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        for id in ("d1", "d2"):
            await up.create(id)
    text = damaged.change("deployments", "d1", how)
    async with serving_flowers(tmp_path, runtime=runtime) as up:
        assert (await up.load("d2")).state == deployment_pb.STATE_LOADED
        await up.load("d3", model=MODEL)
        found, unreadable = await listed(up)
        assert (found, list(unreadable)) == ({"d2", "d3"}, ["deployments/d1"])
        for call in (up.get("d1"), up.load("d1"), up.terminate("d1"), up.create("d1")):
            refused = await failed(call)
            assert refused.reason == "RECORD_UNREADABLE"
            assert "deployment 'd1'" in refused.message
        async with asyncio.timeout(CALL_S):
            call = up.stub.WatchDeployments(pb.WatchDeploymentsRequest(), timeout=CALL_S)
            seen = [await call.read() for _ in range(3)]
            call.cancel()
        assert seen[2].HasField("snapshot_end")
        assert (await up.terminate("d2")).state == deployment_pb.STATE_TERMINATED
        assert not await up.containers_of("d1")
    assert damaged.text("deployments", "d1") == text


async def test_what_becomes_unreadable_goes_on_as_it_was(up: Serving, tmp_path: Path) -> None:
    await asyncio.gather(*(up.load(id, model=MODEL) for id in ("d1", "d2")))
    async with following(up, "w1") as watcher:
        await watcher.until("d1", "d2")
        Damaged(tmp_path).change("deployments", "d1")

        async def is_named() -> bool:
            return "deployments/d1" in (await listed(up))[1]

        await eventually(is_named)
        await up.load("d3", model=MODEL)
        # Its predictor serves, and is told of still.
        await watcher.until("d1", "d2", "d3")
    assert len(await up.containers_of("d1")) == 1


async def test_what_was_published_of_it_stays_published_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    endpoints = [
        {
            "ensemble": "e", "class_position": 0, "class_label": id, "address": f"{id}:1",
            "digest": "x", "deployment": id,
        }
        for id in ("d1", "d2")
    ]  # fmt: skip
    await store.create(
        Kind.SNAPSHOT, "endpoints", {"revision": 7, "endpoints": endpoints, "gone": {}}
    )
    await store.create(Kind.DEPLOYMENT, "d1", {"state": "loaded", "model": "m"})
    clock = MovableClock()
    discovery = Discovery(store, Deployments(store, clock), EnsembleRepository(store, clock), clock)
    async with discovery.running():
        await eventually(lambda: discovery.snapshot.revision == 8)
    # There is no other deployment.
    assert [each.deployment for each in discovery.snapshot.endpoints] == ["d1"]
    await store.close()


async def test_runs_models_and_datasets_are_set_aside(tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        order = run_pb.CreateRunRequest(run_id="r1", model=MODEL, dataset="iris")
        await up.runs.CreateRun(order, timeout=CALL_S)
        await up.register("other", renamed_opset(13))
        for table, id in (("runs", "r1"), ("models", "other"), ("datasets", "iris")):
            damaged.change(table, id)
        get = run_pb.GetRunRequest(name="runs/r1")
        assert (await failed(up.runs.GetRun(get, timeout=CALL_S))).reason == "RECORD_UNREADABLE"
        runs = await up.runs.ListRuns(run_pb.ListRunsRequest(), timeout=CALL_S)
        assert ([*runs.runs], runs.unreadable[0].name) == ([], "runs/r1")
        models = await up.catalog.ListModels(catalog_pb.ListModelsRequest(), timeout=CALL_S)
        assert [each.name for each in models.models] == [MODEL]
        assert models.unreadable[0].name == "other"
        datasets = await up.catalog.ListDatasets(catalog_pb.ListDatasetsRequest(), timeout=CALL_S)
        assert ([*datasets.datasets], datasets.unreadable[0].name) == ([], "iris")
        assert (await failed(up.create("d1", "other"))).reason == "RECORD_UNREADABLE"
        assert (await up.load("d2", model=MODEL)).state == deployment_pb.STATE_LOADED


async def test_a_controller_starts_with_them_and_frees_none_of_their_bytes(tmp_path: Path) -> None:
    damaged = Damaged(tmp_path)
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        await up.register("other", renamed_opset(13))
        await up.register("unused", renamed_opset(14))
    for table, id in (("models", "other"), ("datasets", "iris")):
        damaged.change(table, id)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "other.onnx").write_bytes(renamed_opset(13))
    store, clock = SqliteStore(tmp_path / "store.db"), MovableClock()
    async with serving_flowers(
        tmp_path, store=store, models_dir=folder, runtime=InProcessRuntime()
    ) as up:
        request = catalog_pb.DeleteModelRequest(name="unused")
        await up.catalog.DeleteModel(request, timeout=CALL_S)
        before = await store.blobs()
        assert set(before.values()) == {None}
        await BlobCollector(store, Catalog(store, clock, Trial()), clock).collect()
        assert await store.blobs() == before
        for table, id in (("models", "other"), ("datasets", "iris")):
            damaged.restore(table, id)
        await BlobCollector(store, Catalog(store, clock, Trial()), clock).collect()
        expiring = [each for each, until in (await store.blobs()).items() if until is not None]
        assert expiring == [hashlib.sha256(renamed_opset(14)).hexdigest()]
