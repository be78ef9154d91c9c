"""Models and datasets: `/v1/models`, `/v1/datasets`."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from trillium.controller.v1 import catalog_service_pb2 as pb

from .backend import Controller
from .control import DeleteQuery, PageQuery, answer
from .operation import HttpRequest, Operation, Promise

TAG = "Catalog"


class CatalogRoutes:
    """The routes to the controller's catalog."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def operations(self) -> Sequence[Operation]:
        order = "Sorted by name, each with all of its versions."
        model, dataset = "/v1/models/{model}", "/v1/datasets/{dataset}"
        freed = "The bytes that nothing else uses; they are freed within about an hour."
        unused = "Refused while something uses it; the problem names what does."
        return (
            Operation(
                "GET", "/v1/models", TAG, "List the models that can be deployed", self._models,
                (Promise(200, order, pb.ListModelsResponse),), query=PageQuery,
            ),
            Operation(
                "GET", "/v1/datasets", TAG, "List the datasets that can be scored", self._datasets,
                (Promise(200, order, pb.ListDatasetsResponse),), query=PageQuery,
            ),
            Operation(
                "DELETE", model, TAG, "Delete a model", self._delete_model,
                (Promise(200, freed, pb.DeleteModelResponse),), description=unused,
                query=DeleteQuery, refusals=(404,), changes=True,
            ),
            Operation(
                "DELETE", f"{model}/versions/{{number}}", TAG, "Delete a version of a model",
                self._delete_version,
                (Promise(200, freed, pb.DeleteModelVersionResponse),), description=unused,
                query=DeleteQuery, refusals=(404,), changes=True,
            ),
            Operation(
                "DELETE", dataset, TAG, "Delete a dataset", self._delete_dataset,
                (Promise(200, freed, pb.DeleteDatasetResponse),), description=unused,
                query=DeleteQuery, refusals=(404,), changes=True,
            ),
        )  # fmt: skip

    async def _models(self, http: HttpRequest) -> Response:
        request = pb.ListModelsRequest(**http.query.model_dump())
        return await answer(self._controller, self._controller.catalog.ListModels, request, http)

    async def _delete_model(self, http: HttpRequest) -> Response:
        request = pb.DeleteModelRequest(
            name=http.path["model"], validate_only=http.query.validate_only
        )
        return await answer(self._controller, self._controller.catalog.DeleteModel, request, http)

    async def _delete_version(self, http: HttpRequest) -> Response:
        request = pb.DeleteModelVersionRequest(
            name=http.path["model"],
            version=int(http.path["number"]),
            validate_only=http.query.validate_only,
        )
        method = self._controller.catalog.DeleteModelVersion
        return await answer(self._controller, method, request, http)

    async def _delete_dataset(self, http: HttpRequest) -> Response:
        request = pb.DeleteDatasetRequest(
            name=http.path["dataset"], validate_only=http.query.validate_only
        )
        return await answer(self._controller, self._controller.catalog.DeleteDataset, request, http)

    async def _datasets(self, http: HttpRequest) -> Response:
        request = pb.ListDatasetsRequest(**http.query.model_dump())
        return await answer(self._controller, self._controller.catalog.ListDatasets, request, http)
