"""Both clients of a controller, against a real one in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import pytest

from controller.app import running_controller
from controller.config import ControllerConfig
from controller.runtime.port import ContainerSpec
from controller.runtime.process import ProcessRuntime, ProcessSettings
from tests.artifacts import two_column_tensor
from trillium import (
    AsyncControllerClient,
    ControllerClient,
    DeadlineExceeded,
    DeploymentNotFound,
    IllegalStep,
    InvalidRequest,
    ModelRejected,
    Unreachable,
)
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

T = TypeVar("T")


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """Of a controller whose catalog has the dataset iris and no model."""
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{tmp_path / 'store.db'}")
    async with running_controller(config) as controller:
        yield controller.address


class Blocking:
    """The asyncio client with the face of the blocking one, for use in a thread."""

    def __init__(self, client: AsyncControllerClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            answer = getattr(self._client, method)(*arguments, **options)
            is_stream = isinstance(answer, AsyncGenerator)
            return self._items(answer) if is_stream else self._wait(answer)

        return call

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _items(self, items: AsyncGenerator[T]) -> Generator[T]:
        async def following() -> list[T]:
            return [await anext(items)]

        try:
            while True:
                try:
                    (item,) = self._wait(following())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._wait(items.aclose())


class Using(Protocol):
    """Opens a client of an address and has `work` use it in a thread."""

    async def __call__(self, address: str, work: Callable[[ControllerClient], T]) -> T: ...


@pytest.fixture(params=["ControllerClient", "AsyncControllerClient"])
def using(request: pytest.FixtureRequest) -> Using:
    """Each test runs with both clients."""

    async def blocking(address: str, work: Callable[[ControllerClient], T]) -> T:
        def worked() -> T:
            with ControllerClient(address) as client:
                return work(client)

        return await asyncio.to_thread(worked)

    async def asynchronous(address: str, work: Callable[[ControllerClient], T]) -> T:
        async with AsyncControllerClient(address) as client:
            return await asyncio.to_thread(work, cast(ControllerClient, Blocking(client)))

    return blocking if request.param == "ControllerClient" else asynchronous


async def test_the_whole_way_from_a_file_to_results(
    using: Using, address: str, tmp_path: Path
) -> None:
    artifact = tmp_path / "setosa.onnx"
    artifact.write_bytes(two_column_tensor())

    def work(client: ControllerClient) -> None:
        assert client.is_serving()
        sent: list[tuple[int, int]] = []
        registered = client.register_model(
            "flower",
            artifact,
            class_label="setosa",
            positive_column=1,
            progress=lambda done, size: sent.append((done, size)),
        )
        assert registered.version == 1
        assert sent == [(artifact.stat().st_size,) * 2]
        assert [each.name for each in client.models()] == ["flower"]
        assert [each.name for each in client.datasets()] == ["iris"]
        assert client.refused_models() == []

        made = client.create("flower", id="a1", memory_bytes=512 << 20)
        assert made.state == deployment_pb.STATE_CREATED
        assert client.load("deployments/a1").state == deployment_pb.STATE_LOADED
        assert client.deployment("a1").model == "flower"
        found = client.deployments(states=[deployment_pb.STATE_LOADED], model="flower")
        assert [each.name for each in found] == ["deployments/a1"]

        run = client.run("flower", "iris", id="r1", deployment="a1")
        assert run.state == run_pb.RUN_STATE_SUCCEEDED
        assert [each.name for each in client.runs(model="flower")] == ["runs/r1"]
        assert client.get_run("r1") == run
        assert list(client.watch_run("r1")) == [run]
        assert client.cancel_run("r1") == run
        rows = list(client.results("runs/r1", first_row=148))
        assert [each.row for each in rows] == [148, 149]

        assert client.update("a1", replicas=2).replica_count == 2
        assert client.unload("a1").state == deployment_pb.STATE_CREATED
        assert client.terminate("a1").state == deployment_pb.STATE_TERMINATED
        assert [each.after for each in client.events("a1") if not each.HasField("slot")] == [
            "CREATED",
            "LOADED",
            "LOADED",
            "CREATED",
            "ABSENT",
        ]
        (server,) = client.servers()
        assert server.reachable

    await using(address, work)


async def test_a_watch_ends_when_it_is_closed(using: Using, address: str) -> None:
    def work(client: ControllerClient) -> None:
        watching = client.watch_deployments()
        assert next(watching).HasField("snapshot_end")
        watching.close()
        assert list(client.deployments()) == []

    await using(address, work)


async def test_what_the_controller_raises_is_raised(
    using: Using, address: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")

    def work(client: ControllerClient) -> None:
        with pytest.raises(DeploymentNotFound, match="nobody"):
            client.deployment("nobody")
        with pytest.raises(DeploymentNotFound, match="nobody"):
            list(client.events("nobody"))
        with pytest.raises(ModelRejected):
            client.register_model("broken", broken)
        with pytest.raises(InvalidRequest, match="name"):
            client.register_model("../broken", broken)
        with pytest.raises(ValueError, match="a file name that ends in"):
            client.register_dataset("few", tmp_path / "few.xlsx")
        with pytest.raises(FileNotFoundError):
            client.register_dataset("few", tmp_path / "few.csv")
        broken.unlink()
        with pytest.raises(FileNotFoundError):
            client.register_model("broken", broken)
        with pytest.raises(ValueError, match="above 0"):
            client.run("flower", "iris", run_timeout_s=0)

    await using(address, work)


async def test_results_of_a_run_that_did_not_succeed_are_refused(
    using: Using, address: str, tmp_path: Path
) -> None:
    artifact = tmp_path / "setosa.onnx"
    artifact.write_bytes(two_column_tensor())

    def work(client: ControllerClient) -> None:
        client.register_model("flower", artifact, class_label="setosa", positive_column=1)
        late = client.run("flower", "iris", id="late", run_timeout_s=0.01)
        assert late.state == run_pb.RUN_STATE_TIMED_OUT
        with pytest.raises(IllegalStep):
            list(client.results("late"))

    await using(address, work)


async def test_an_upload_that_is_refused_early_ends_with_the_reason(
    using: Using, address: str, tmp_path: Path
) -> None:
    large = tmp_path / "large.csv"
    large.write_bytes(b"a,label\n" + b"1,x\n" * (4 << 20))

    def work(client: ControllerClient) -> None:
        sent: list[int] = []
        with pytest.raises(InvalidRequest, match="name"):
            client.register_dataset("../few", large, progress=lambda done, size: sent.append(done))
        assert not sent or sent[-1] <= large.stat().st_size

    await using(address, work)


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert methods(AsyncControllerClient) == methods(ControllerClient)


async def test_an_unreachable_controller_is_named_by_its_address(using: Using) -> None:
    def work(client: ControllerClient) -> None:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            list(client.deployments())
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            next(client.watch_deployments())
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            client.is_serving()

    await using("127.0.0.1:1", work)


class Held(ProcessRuntime):
    """A real runtime that creates nothing before it may."""

    def __init__(self) -> None:
        super().__init__(ProcessSettings(arguments=("--threads=1",)))
        self.may = asyncio.Event()

    async def create(self, spec: ContainerSpec) -> None:
        await self.may.wait()
        await super().create(spec)


async def test_a_deadline_undoes_nothing(using: Using, tmp_path: Path) -> None:
    artifact = tmp_path / "setosa.onnx"
    artifact.write_bytes(two_column_tensor())
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{tmp_path / 'store.db'}")
    runtime = Held()

    def first(client: ControllerClient) -> None:
        client.register_model("flower", artifact, class_label="setosa", positive_column=1)
        address = controller.address
        with ControllerClient(address, timeout_s=0.2) as hasty, pytest.raises(DeadlineExceeded):
            hasty.create("flower", id="a1")

    def again(client: ControllerClient) -> None:
        assert client.create("flower", id="a1").state == deployment_pb.STATE_CREATED

    async with running_controller(config, runtime=runtime) as controller:
        await using(controller.address, first)
        runtime.may.set()
        await using(controller.address, again)


async def test_threads_may_share_a_client(using: Using, address: str) -> None:
    def work(client: ControllerClient) -> None:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(len(client.servers()))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [1] * 8

    await using(address, work)
