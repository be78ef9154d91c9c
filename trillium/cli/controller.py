"""What `trillium up` asks of a controller: messages to values and back, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import grpc

from trillium import wire
from trillium.cli.run import Run, of_message
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.rpc.channels import client_channel

PREFIX = "deployments/"
ASK_S = 10.0
VERB_S = 120.0
"""How long a predictor may take to start or to load: long enough for a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment as it is."""

    id: str
    model: str
    version: int
    wanted: bool
    """Whether it is to be there at all."""
    loaded: bool
    detail: str
    """Why it is not what is wanted; empty when all is well."""
    addresses: tuple[str, ...]
    """Of its predictors."""


class ControllerCalls:
    """Calls of the controller at an address. Every method raises TrilliumError."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = client_channel(address)
        self._deployments = ControllerServiceStub(self._channel)
        self._catalog = CatalogServiceStub(self._channel)
        self._runs = RunServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def deployments(self) -> list[Deployed]:
        """All deployments, in the order of their ids."""
        found: list[Deployed] = []
        request = pb.ListDeploymentsRequest(page_size=500)
        while True:
            answer = await self._ask(self._deployments.ListDeployments, request, ASK_S)
            found += [_deployed(each) for each in answer.deployments]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def create(self, id: str, model: str) -> None:
        """Have a predictor started for the newest version of a model."""
        request = pb.CreateDeploymentRequest(deployment_id=id, model=model)
        await self._ask(self._deployments.CreateDeployment, request, VERB_S)

    async def load(self, id: str) -> Deployed:
        """Have a deployment serve the newest version of its model; repeating it is harmless."""
        request = pb.LoadDeploymentRequest(name=PREFIX + id, newest_version=True)
        return _deployed(await self._ask(self._deployments.LoadDeployment, request, VERB_S))

    async def changes(self) -> AsyncGenerator[Deployed]:
        """All deployments, then each one that changes; ends with the error of the connection."""
        call = self._deployments.WatchDeployments(pb.WatchDeploymentsRequest())
        try:
            async for answer in call:
                if answer.HasField("deployment"):
                    yield _deployed(answer.deployment)
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, ASK_S) from failure
        finally:
            call.cancel()

    async def ensembles(self) -> Mapping[str, str]:
        """The ensemble of every model by the model's name; empty if unknown."""
        found: dict[str, str] = {}
        request = catalog_pb.ListModelsRequest(page_size=1000)
        while True:
            answer = await self._ask(self._catalog.ListModels, request, ASK_S)
            found |= {each.name: each.ensemble for each in answer.models}
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def refused(self) -> Mapping[str, str]:
        """Why files of its folder of models were not registered at its start, by their names."""
        request = catalog_pb.ListRefusedModelsRequest()
        answer = await self._ask(self._catalog.ListRefusedModels, request, ASK_S)
        return {each.file: each.detail for each in answer.models}

    async def has_dataset(self, name: str) -> bool:
        """Whether a dataset of that name is registered."""
        request = catalog_pb.ListDatasetsRequest(page_size=1000)
        while True:
            answer = await self._ask(self._catalog.ListDatasets, request, ASK_S)
            if any(each.name == name for each in answer.datasets):
                return True
            if not answer.next_page_token:
                return False
            request.page_token = answer.next_page_token

    async def run(self, model: str, dataset: str) -> Run:
        """Score a dataset with a predictor that is there for nothing else."""
        request = run_pb.CreateRunRequest(model=model, dataset=dataset)
        request.timeout.FromSeconds(int(VERB_S))
        return of_message(await self._ask(self._runs.CreateRun, request, VERB_S + ASK_S))

    async def _ask(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, timeout_s) from failure


def _deployed(message: deployment_pb.Deployment) -> Deployed:
    return Deployed(
        id=message.name.removeprefix(PREFIX),
        model=message.model,
        version=message.model_version,
        wanted=message.target != deployment_pb.TARGET_ABSENT,
        loaded=message.state == deployment_pb.STATE_LOADED,
        detail=message.detail,
        addresses=tuple(each.address for each in message.instances if each.address),
    )
