"""Models and datasets: `/v1/models`, `/v1/datasets`."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from trillium.controller.v1 import catalog_service_pb2 as pb

from .backend import Controller
from .control import PageQuery, answer
from .operation import HttpRequest, Operation, Promise

TAG = "Catalog"


class CatalogRoutes:
    """The routes to the controller's catalog."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def operations(self) -> Sequence[Operation]:
        order = "Sorted by name, each with all of its versions."
        return (
            Operation(
                "GET", "/v1/models", TAG, "List the models that can be deployed", self._models,
                (Promise(200, order, pb.ListModelsResponse),), query=PageQuery,
            ),
            Operation(
                "GET", "/v1/datasets", TAG, "List the datasets that can be scored", self._datasets,
                (Promise(200, order, pb.ListDatasetsResponse),), query=PageQuery,
            ),
        )  # fmt: skip

    async def _models(self, http: HttpRequest) -> Response:
        request = pb.ListModelsRequest(**http.query.model_dump())
        return await answer(self._controller, self._controller.catalog.ListModels, request, http)

    async def _datasets(self, http: HttpRequest) -> Response:
        request = pb.ListDatasetsRequest(**http.query.model_dump())
        return await answer(self._controller, self._controller.catalog.ListDatasets, request, http)
