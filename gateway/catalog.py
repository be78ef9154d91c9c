"""Models and datasets: `/v1/models`, `/v1/datasets`."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from gateway.backend import Controller
from gateway.control import PageQuery
from gateway.messages import to_json
from gateway.operation import Asked, Operation, Promise, json_response
from trillium.controller.v1 import catalog_service_pb2 as pb

TAG = "Catalog"


class Catalog:
    """Answers for the controller's catalog."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def operations(self) -> Sequence[Operation]:
        order = "In the order of their names, each with all of its versions."
        return (
            Operation(
                "GET", "/v1/models", TAG, "The models that can be deployed", self._models,
                (Promise(200, order, pb.ListModelsResponse),), query=PageQuery,
            ),
            Operation(
                "GET", "/v1/datasets", TAG, "The datasets that can be scored", self._datasets,
                (Promise(200, order, pb.ListDatasetsResponse),), query=PageQuery,
            ),
        )  # fmt: skip

    async def _models(self, asked: Asked) -> Response:
        request = pb.ListModelsRequest(**asked.query.model_dump())
        method = self._controller.catalog.ListModels
        return json_response(to_json(await self._controller.ask(method, request, asked)))

    async def _datasets(self, asked: Asked) -> Response:
        request = pb.ListDatasetsRequest(**asked.query.model_dump())
        method = self._controller.catalog.ListDatasets
        return json_response(to_json(await self._controller.ask(method, request, asked)))
