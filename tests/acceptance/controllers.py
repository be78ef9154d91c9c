"""Real controllers as processes, their callers, and what of their predictors is left."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc import aio

from controller.failpoints import VARIABLE
from tests.acceptance.processes import START_S, Server, started
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb_aggregator
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.tensor.v1.tensor_pb2 import Float32Matrix

CALL_S = 90.0
NOBODY = "unix:/dev/null"
"""Calls there are UNAVAILABLE at once."""


@dataclass(frozen=True, slots=True)
class Control:
    """A controller process, and stubs that call it."""

    server: Server
    address: str
    began: float
    """When it was started, on the monotonic clock."""
    deployments: Any
    runs: Any
    catalog: Any

    @property
    def has_died(self) -> bool:
        return self.server.process.returncode is not None

    async def create(self, id: str, model: str = "iris-setosa", **fields: Any) -> Any:
        request = pb.CreateDeploymentRequest(deployment_id=id, model=model, **fields)
        return await self.deployments.CreateDeployment(request, timeout=CALL_S)

    async def load(self, id: str, **fields: Any) -> Any:
        request = pb.LoadDeploymentRequest(name=f"deployments/{id}", **fields)
        return await self.deployments.LoadDeployment(request, timeout=CALL_S)

    async def update(self, id: str, **fields: Any) -> Any:
        request = pb.UpdateDeploymentRequest(name=f"deployments/{id}", **fields)
        return await self.deployments.UpdateDeployment(request, timeout=CALL_S)

    async def unload(self, id: str, **fields: Any) -> Any:
        request = pb.UnloadDeploymentRequest(name=f"deployments/{id}", **fields)
        return await self.deployments.UnloadDeployment(request, timeout=CALL_S)

    async def terminate(self, id: str, **fields: Any) -> Any:
        request = pb.TerminateDeploymentRequest(name=f"deployments/{id}", **fields)
        return await self.deployments.TerminateDeployment(request, timeout=CALL_S)

    async def get(self, id: str) -> deployment_pb.Deployment:
        request = pb.GetDeploymentRequest(name=f"deployments/{id}")
        answer: deployment_pb.Deployment = await self.deployments.GetDeployment(
            request, timeout=CALL_S
        )
        return answer

    async def is_in(self, id: str, state: int) -> bool:
        return (await self.get(id)).state == state

    async def register(self, name: str, artifact: bytes, label: str = "setosa") -> int:
        """Register an artifact; answers the version that it became."""
        answer = await self.catalog.RegisterModel(
            upload(name, artifact, class_label=label, positive_column=1), timeout=CALL_S
        )
        return int(answer.version)


def upload(name: str, artifact: bytes, **said: Any) -> Iterator[catalog_pb.RegisterModelRequest]:
    """The messages that register an artifact."""
    header = catalog_pb.RegisterModelHeader(
        name=name,
        sha256=hashlib.sha256(artifact).hexdigest(),
        size_bytes=len(artifact),
        **said,
    )
    yield catalog_pb.RegisterModelRequest(header=header)
    for start in range(0, len(artifact), 2**20):
        yield catalog_pb.RegisterModelRequest(chunk=artifact[start : start + 2**20])


@asynccontextmanager
async def controlling(
    store: str,
    *more: str,
    module: str = "controller",
    failpoint: str = "",
    listen: str = "127.0.0.1:0",
    network: Path | None = None,
) -> AsyncIterator[Control]:
    """`python -m controller`, serving; `network` as for `started`.

    With a failpoint it may be dead before it serves; it then has no address.
    """
    command = (module, f"--listen={listen}", f"--store={store}", *more)
    environment = {VARIABLE: failpoint} if failpoint else {}
    began = time.monotonic()
    async with started(*command, network=network, **environment) as server:
        address = await (server.serves_or_ends() if failpoint else server.serves())
        # A controller of its own behind each channel, however the ports are given out.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with aio.insecure_channel(address or NOBODY, options=options) as channel:
            yield Control(
                server,
                address,
                began,
                ControllerServiceStub(channel),
                RunServiceStub(channel),
                CatalogServiceStub(channel),
            )


@asynccontextmanager
async def seeded(folder: Path, models: Path) -> AsyncIterator[Path]:
    """The file of a store in which the models are registered."""
    path = folder / "seeded.db"
    async with controlling(f"sqlite:{path}", f"--models-dir={models}"):
        pass
    yield path


def copy_of(store: Path, folder: Path) -> str:
    """A store with the same content, to be changed."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(store, folder / "store.db")
    return f"sqlite:{folder / 'store.db'}"


def children_of(*controllers: int) -> list[int]:
    """Processes, running or not yet reaped, that were started as predictors of controllers."""
    marks = {f"--parent-pid={each}".encode() for each in controllers}
    return [pid for pid, arguments in _processes() if not marks.isdisjoint(arguments)]


def predictors_at(address: str) -> list[int]:
    """Processes that were started as predictors that listen there."""
    mark = f"--listen={address}".encode()
    return [pid for pid, arguments in _processes() if mark in arguments]


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError):
                yield int(path.name), (path / "cmdline").read_bytes().split(b"\0")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own and in use."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    return int(sizes["RssAnon"].split()[0]) * 1024


async def outcome_of(call: Any) -> grpc.StatusCode:
    """With which status a call ends."""
    try:
        await call
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@dataclass(frozen=True, slots=True)
class Traffic:
    """Callers who ask an aggregator all the time, and what came of it."""

    answered: list[float]
    """When each answer came."""
    failures: list[str]
    wrong: list[str]

    @property
    def count(self) -> int:
        return len(self.answered)

    async def goes_on(self, count: int = 100) -> None:
        """Wait until so many more predictions were answered."""
        wanted = self.count + count
        await eventually(lambda: self.count >= wanted or bool(self.failures))

    async def goes_on_until(self, at: float) -> None:
        """Wait until that time of the monotonic clock."""
        left_s = max(0.0, at - time.monotonic())
        await eventually(lambda: time.monotonic() >= at or bool(self.failures), left_s + 40)

    def longest_pause_s(self, begin: float, end: float) -> float:
        """The longest time without an answer between two times of the monotonic clock."""
        times = [begin, *(each for each in self.answered if begin < each < end), end]
        return max(after - before for before, after in pairwise(times))

    def check(self) -> None:
        assert self.failures == []
        assert self.wrong == []


@asynccontextmanager
async def aggregating(
    control: Control, *labels: str, listen: str = "127.0.0.1:0", network: Path | None = None
) -> AsyncIterator[str]:
    """An aggregator that follows the controller, ready for these classes; its address.

    `network` as for `started`.
    """
    command = ("aggregator", f"--listen={listen}", f"--controller={control.address}")
    async with started(*command, network=network) as server:
        address = await server.serves()
        async with aio.insecure_channel(address) as channel:
            stub: Any = AggregatorServiceStub(channel)

            async def is_ready() -> bool:
                answer = await stub.ListPredictors(
                    pb_aggregator.ListPredictorsRequest(), timeout=60
                )
                ready = {
                    each.class_label
                    for each in answer.predictors
                    if each.state == pb_aggregator.PREDICTOR_STATE_READY
                }
                return ready == set(labels)

            await eventually(is_ready, START_S)
        yield address


@asynccontextmanager
async def traffic(
    address: str,
    row: npt.ArrayLike,
    *right: npt.ArrayLike,
    callers: int = 16,
    rest_s: float = 0.0,
) -> AsyncIterator[Traffic]:
    """Callers who have `row` predicted, and rest after each answer; it must be one of those that
    are right."""
    seen = Traffic([], [], [])
    values = np.array(row, "<f4")
    matrix = Float32Matrix(row_count=1, column_count=len(values), data=values.tobytes())
    request = pb_aggregator.PredictRequest(matrix=matrix)
    allowed = [np.array(each, "<f4") for each in right]
    async with aio.insecure_channel(address) as channel:
        stub: Any = AggregatorServiceStub(channel)

        async def call() -> None:
            while True:
                try:
                    answer = await stub.Predict(request, timeout=60)
                except aio.AioRpcError as error:
                    seen.failures.append(f"{error.code()}: {error.details()}")
                    continue
                told = np.frombuffer(answer.probabilities.data, "<f4")
                if not any(np.allclose(told, each, atol=1e-6) for each in allowed):
                    seen.wrong.append(str(told))
                seen.answered.append(time.monotonic())
                await asyncio.sleep(rest_s)

        tasks = [asyncio.create_task(call()) for _ in range(callers)]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
