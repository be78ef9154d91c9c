"""A controller in this process with real predictors, and callers with the generated stubs."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc import aio

from controller.app import RunningController, running_controller
from controller.config import ControllerConfig
from controller.deployments.probing import ProbingPolicy
from controller.failpoints import Failpoints
from controller.runtime.port import Runtime
from controller.runtime.process import ProcessRuntime, ProcessSettings
from controller.store.port import Store
from tests.artifacts import two_column_tensor
from tests.waiting import eventually
from trillium.clock import Clock
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.discovery_service_pb2_grpc import DiscoveryServiceStub
from trillium.controller.v1.ensemble_service_pb2_grpc import EnsembleServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub

CALL_S = 90.0
MODEL = "flowers"


@dataclass(frozen=True, slots=True)
class Serving:
    """A controller that is up, and stubs that call it."""

    controller: RunningController
    runtime: Runtime
    channel: aio.Channel
    stub: Any
    runs: Any
    catalog: Any
    discovery: Any
    ensembles: Any
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_id(self) -> str:
        """An id that no other test has."""
        return f"d{next(self.numbers)}"

    def create(self, id: str, model: str = MODEL, **fields: Any) -> Any:
        request = pb.CreateDeploymentRequest(deployment_id=id, model=model, **fields)
        return self.stub.CreateDeployment(request, timeout=CALL_S)

    def load(self, id: str, *, within_s: float = CALL_S, **fields: Any) -> Any:
        request = pb.LoadDeploymentRequest(name=f"deployments/{id}", **fields)
        return self.stub.LoadDeployment(request, timeout=within_s)

    def update(self, id: str, **fields: Any) -> Any:
        request = pb.UpdateDeploymentRequest(name=f"deployments/{id}", **fields)
        return self.stub.UpdateDeployment(request, timeout=CALL_S)

    def unload(self, id: str, *, within_s: float = CALL_S, **fields: Any) -> Any:
        request = pb.UnloadDeploymentRequest(name=f"deployments/{id}", **fields)
        return self.stub.UnloadDeployment(request, timeout=within_s)

    def terminate(self, id: str, **fields: Any) -> Any:
        request = pb.TerminateDeploymentRequest(name=f"deployments/{id}", **fields)
        return self.stub.TerminateDeployment(request, timeout=CALL_S)

    def get(self, id: str) -> Any:
        request = pb.GetDeploymentRequest(name=f"deployments/{id}")
        return self.stub.GetDeployment(request, timeout=CALL_S)

    async def becomes(self, id: str, state: int, within_s: float = CALL_S) -> None:
        """Wait until a deployment is in that state."""

        async def is_so() -> bool:
            return bool((await self.get(id)).state == state)

        await eventually(is_so, within_s)

    async def events(self, id: str) -> list[pb.DeploymentEvent]:
        """The whole history of a deployment, two at a time."""
        events: list[pb.DeploymentEvent] = []
        token = ""
        while True:
            request = pb.ListDeploymentEventsRequest(
                name=f"deployments/{id}", page_size=2, page_token=token
            )
            page = await self.stub.ListDeploymentEvents(request, timeout=CALL_S)
            events += page.events
            token = page.next_page_token
            if not token:
                return events

    async def all_ids(self) -> list[str]:
        """The ids of all deployments, whatever they are."""
        answer = await self.stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=CALL_S)
        assert not answer.next_page_token
        return [each.name.removeprefix("deployments/") for each in answer.deployments]

    async def containers_of(self, id: str) -> list[Any]:
        """What the runtime has for a deployment."""
        return [each for each in await self.runtime.look() if each.deployment == id]

    async def register(self, name: str, artifact: bytes, label: str = "setosa") -> int:
        """Register an artifact; answers the version that it became."""
        call = self.catalog.RegisterModel(
            upload(name, artifact, class_label=label, positive_column=1), timeout=CALL_S
        )
        return int((await call).version)


def upload(name: str, artifact: bytes, **said: Any) -> Iterator[catalog_pb.RegisterModelRequest]:
    """The messages that register an artifact."""
    header = catalog_pb.RegisterModelHeader(
        name=name, sha256=hashlib.sha256(artifact).hexdigest(), size_bytes=len(artifact), **said
    )
    yield catalog_pb.RegisterModelRequest(header=header)
    for start in range(0, len(artifact), 2**20):
        yield catalog_pb.RegisterModelRequest(chunk=artifact[start : start + 2**20])


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    store: Store | None = None,
    failpoints: Failpoints | None = None,
    runtime: Runtime | None = None,
    clock: Clock | None = None,
    models_dir: Path | None = None,
    drain_s: float = 1.0,
    listen: str = "127.0.0.1:0",
    probing: ProbingPolicy | None = None,
) -> AsyncIterator[Serving]:
    """A controller, on a free port if nothing else is said, whose state is in `folder`."""
    config = ControllerConfig(
        listen=listen,
        store=f"sqlite:{folder / 'store.db'}",
        models_dir=models_dir,
        drain_s=drain_s,
        probing=probing or ProbingPolicy(),
    )
    runtime = runtime or ProcessRuntime(ProcessSettings(arguments=("--threads=1",)))
    async with (
        running_controller(
            config, clock=clock, store=store, runtime=runtime, failpoints=failpoints
        ) as up,
        aio.insecure_channel(
            up.address, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel,
    ):
        yield Serving(
            up,
            runtime,
            channel,
            ControllerServiceStub(channel),
            RunServiceStub(channel),
            CatalogServiceStub(channel),
            DiscoveryServiceStub(channel),
            EnsembleServiceStub(channel),
        )


@asynccontextmanager
async def serving_flowers(folder: Path, **options: Any) -> AsyncIterator[Serving]:
    """As `serving`, with a model "flowers" registered."""
    async with serving(folder, **options) as up:
        await up.register(MODEL, two_column_tensor())
        yield up


@asynccontextmanager
async def watching(up: Serving, **fields: Any) -> AsyncIterator[Watch]:
    """A watch of the deployments, ended at the end."""
    call = up.stub.WatchDeployments(pb.WatchDeploymentsRequest(**fields), timeout=CALL_S)
    try:
        yield Watch(call)
    finally:
        call.cancel()


class Watch:
    """What a watch of the deployments tells, one thing after the other."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> pb.WatchDeploymentsResponse:
        async with asyncio.timeout(CALL_S):
            answer: pb.WatchDeploymentsResponse = await self._call.read()
        return answer

    async def snapshot(self) -> dict[str, deployment_pb.Deployment]:
        """All up to the end of the snapshot, by name."""
        told: dict[str, deployment_pb.Deployment] = {}
        while True:
            each = await self.next()
            match each.WhichOneof("event"):
                case "snapshot_end":
                    return told
                case "deployment":
                    assert each.deployment.name not in told
                    told[each.deployment.name] = each.deployment
                case other:
                    raise AssertionError(f"{other} in a snapshot")

    async def until(self, name: str, state: int) -> list[deployment_pb.Deployment]:
        """The changes of one deployment up to one in that state."""
        changes = []
        while True:
            each = (await self.next()).deployment
            if each.name == name:
                changes.append(each)
                if each.state == state:
                    return changes
