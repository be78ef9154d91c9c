"""How a controller starts: what is there, what was written, and who else is there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.app import running_controller
from controller.config import ControllerConfig
from controller.runtime.port import Container, RuntimeUnreachable
from controller.runtime.process import ProcessRuntime, ProcessSettings
from controller.sole import lock_file
from tests.artifacts import two_column_tensor
from tests.controller.serving import MODEL, serving, serving_flowers
from tests.waiting import eventually
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.server.process import StartFailed

LOADED = deployment_pb.STATE_LOADED
SERVING = health_pb2.HealthCheckResponse.SERVING


class GatedRuntime(ProcessRuntime):
    """A real runtime that does not answer looks before it is let."""

    def __init__(self) -> None:
        super().__init__(ProcessSettings(arguments=("--threads=1",)))
        self.gate = asyncio.Event()
        self.fails = False

    async def look(self) -> Sequence[Container]:
        if self.fails:
            raise RuntimeUnreachable("the engine is away")
        await self.gate.wait()
        return await super().look()


@pytest.fixture
def socket() -> Iterator[str]:
    """An address to listen on that is known before anybody does."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield f"unix:{folder}/c.sock"


async def test_health_says_serving_only_after_everything_was_looked_at(
    tmp_path: Path, socket: str
) -> None:
    async with serving_flowers(tmp_path) as up:
        before = await up.load("a1", model=MODEL)
    runtime = GatedRuntime()
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(aio.insecure_channel(socket))
        health: Any = health_pb2_grpc.HealthStub(channel)
        stub: Any = ControllerServiceStub(channel)
        controller = serving(tmp_path, runtime=runtime, listen=socket)
        starting = asyncio.ensure_future(stack.enter_async_context(controller))

        async def status() -> int:
            request = health_pb2.HealthCheckRequest()
            answer = await health.Check(request, timeout=60, wait_for_ready=True)
            return int(answer.status)

        get = pb.GetDeploymentRequest(name="deployments/a1")
        stale = await stub.GetDeployment(get, timeout=60, wait_for_ready=True)
        assert (stale.state, stale.instances[0].address) == (LOADED, before.instances[0].address)
        assert await status() != SERVING
        assert not starting.done()
        runtime.gate.set()

        async def serves() -> bool:
            return bool(await status() == SERVING)

        await eventually(serves)
        fresh = await stub.GetDeployment(get, timeout=60)
        assert fresh.state != LOADED or fresh.instances[0].attempt > 1
        await starting


async def test_a_controller_whose_engine_is_away_serves_and_says_so(tmp_path: Path) -> None:
    async with serving_flowers(tmp_path) as up:
        await up.create("a1")
    runtime = GatedRuntime()
    runtime.fails = True
    async with serving(tmp_path, runtime=runtime) as up:
        assert up.controller.health.is_serving()
        (condition,) = (await up.get("a1")).conditions
        assert (condition.type, condition.holds) == ("RUNTIME_REACHABLE", False)
        assert "away" in condition.detail


async def test_a_controller_tells_which_files_of_its_folder_are_no_models(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "sound.onnx").write_bytes(two_column_tensor())
    (models / "sound.json").write_text('{"class_label": "setosa", "positive_column": 1}')
    (models / "damaged.onnx").write_bytes(b"no model")
    async with serving(tmp_path, models_dir=models) as up:
        request = catalog_pb.ListRefusedModelsRequest()
        answer = await up.catalog.ListRefusedModels(request, timeout=60)
    assert [each.file for each in answer.models] == ["damaged.onnx"]
    assert "ONNX" in answer.models[0].detail


async def test_a_second_controller_with_child_processes_on_one_store_is_refused(
    tmp_path: Path,
) -> None:
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{tmp_path / 'store.db'}")
    async with running_controller(config):
        with pytest.raises(StartFailed, match=r"another controller, .*store\.db\.lock, runs"):
            async with running_controller(config):
                raise AssertionError("it must not start")
    async with running_controller(config) as again:
        assert again.health.is_serving()


def test_a_store_has_one_lock_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    assert lock_file(f"sqlite:{tmp_path}/store.db", "x") == tmp_path / "store.db.lock"
    assert lock_file(f"sqlite:{tmp_path}/link.db", "y") == tmp_path / "store.db.lock"
    same = {
        lock_file(uri, "one")
        for uri in (
            "mongodb://a:1,b:2/?replicaSet=r",
            "mongodb://user:secret@b:2,A:1",
            "mongodb://b:2,a:1/admin",
        )
    }
    assert len(same) == 1
    others = {lock_file("mongodb://a:1,b:2", "two"), lock_file("mongodb://a:1", "one")}
    assert len(same | others) == 3
    assert "secret" not in str(same)
