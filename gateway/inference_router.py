"""The route of the older routing service: `POST /inference_router/`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb
from trillium.errors import InvalidRequest

from .backend import Controller
from .messages import to_json
from .operation import HttpRequest, Operation, Promise, json_response

TAG = "The older routing service"
LONGEST_ID = 32
"""Maximum length of a run's id; a deployment's may be longer."""

_ID = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_DESCRIPTION = (
    "`DEPLOY_CREATE` starts a predictor for `model`, `DEPLOY_LOAD` loads the model, "
    "`DEPLOY_UNLOAD` unloads it, `TERMINATE` removes the predictor: each returns the deployment. "
    "`TEMP` scores `dataset` with a predictor of its own and returns the run. Each returns when "
    "the work is done; if the time runs out first, the status is 504 and the work continues."
)


class RouterBody(BaseModel):
    """An operation of the older service. Unknown keys are ignored, as they were there."""

    model_config = ConfigDict(strict=True)

    job_id: str | int = Field(
        description="Id of the deployment or run. A value that is not a valid id, such as 17 or "
        "Job_1, always maps to the same valid id, which `name` of the response contains."
    )
    model: str = Field(default="", description="Name of a registered model.")
    dataset: str | None = Field(default=None, description="Name of a registered dataset, for TEMP.")
    operation_type: Literal["DEPLOY_CREATE", "DEPLOY_LOAD", "DEPLOY_UNLOAD", "TERMINATE", "TEMP"]
    container_id: str | None = Field(
        default=None,
        description="Optional, and ignored if it is unknown. The container of another "
        "deployment's predictor is refused.",
    )


class InferenceRouter:
    """The older service's route to the controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._verbs: dict[str, Callable[[str, RouterBody, HttpRequest], Awaitable[Any]]] = {
            "DEPLOY_CREATE": self._create,
            "DEPLOY_LOAD": self._load,
            "DEPLOY_UNLOAD": self._unload,
            "TERMINATE": self._terminate,
            "TEMP": self._temp,
        }

    def operations(self) -> Sequence[Operation]:
        schema = (deployment_pb.Deployment, run_pb.Run)
        return (
            Operation(
                "POST", "/inference_router/", TAG, "Create, load, unload, terminate, run",
                self._route, (Promise(200, "The deployment, or the run.", schema),),
                description=_DESCRIPTION, body=RouterBody, refusals=(404, 409), waits=True,
                changes=True,
                body_example={
                    "job_id": "a1", "model": "iris-setosa", "dataset": "iris",
                    "operation_type": "DEPLOY_CREATE", "container_id": "",
                },
            ),
        )  # fmt: skip

    async def _route(self, http: HttpRequest) -> Response:
        body: RouterBody = http.body
        id = id_of(body.job_id)
        if body.container_id and body.operation_type not in ("DEPLOY_CREATE", "TEMP"):
            await self._check_container(id, body.container_id, http)
        return json_response(to_json(await self._verbs[body.operation_type](id, body, http)))

    async def _create(self, id: str, body: RouterBody, http: HttpRequest) -> Any:
        request = pb.CreateDeploymentRequest(deployment_id=id, model=_model(body))
        return await self._controller.ask(
            self._controller.deployments.CreateDeployment, request, http
        )

    async def _load(self, id: str, body: RouterBody, http: HttpRequest) -> Any:
        request = pb.LoadDeploymentRequest(name=f"deployments/{id}", model=body.model)
        return await self._controller.ask(
            self._controller.deployments.LoadDeployment, request, http
        )

    async def _unload(self, id: str, body: RouterBody, http: HttpRequest) -> Any:
        request = pb.UnloadDeploymentRequest(name=f"deployments/{id}")
        return await self._controller.ask(
            self._controller.deployments.UnloadDeployment, request, http
        )

    async def _terminate(self, id: str, body: RouterBody, http: HttpRequest) -> Any:
        request = pb.TerminateDeploymentRequest(name=f"deployments/{id}")
        return await self._controller.ask(
            self._controller.deployments.TerminateDeployment, request, http
        )

    async def _temp(self, id: str, body: RouterBody, http: HttpRequest) -> Any:
        if not body.dataset:
            raise InvalidRequest.of(
                "dataset", "is empty; TEMP requires the name of a registered dataset"
            )
        request = run_pb.CreateRunRequest(run_id=id, model=_model(body), dataset=body.dataset)
        return await self._controller.ask(self._controller.runs.CreateRun, request, http)

    async def _check_container(self, id: str, container_id: str, http: HttpRequest) -> None:
        """Raises InvalidRequest if the container belongs to another deployment."""
        request = pb.ListDeploymentsRequest(page_size=500)
        method = self._controller.deployments.ListDeployments
        while True:
            page = await self._controller.ask(method, request, http)
            for each in page.deployments:
                owns = any(container_id == one.container_id for one in each.instances)
                if owns and each.name != f"deployments/{id}":
                    text = f"is {container_id[:80]!r}, which belongs to {each.name}, not to {id!r}"
                    raise InvalidRequest.of("container_id", text)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def id_of(job_id: str | int) -> str:
    """The id for a job: `job_id` if it is a valid id, otherwise one derived from it."""
    text = str(job_id)
    if not text:
        raise InvalidRequest.of("job_id", "is empty; expected an id")
    if len(text) <= LONGEST_ID and _ID.fullmatch(text):
        return text
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:16].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return "-".join(part for part in ("job", readable, digest) if part)


def _model(body: RouterBody) -> str:
    if not body.model:
        raise InvalidRequest.of("model", "is empty; expected the name of a registered model")
    return body.model
