"""The route of the older routing service: `POST /inference_router/`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.backend import Controller
from gateway.messages import to_json
from gateway.operation import Asked, Operation, Promise, json_response
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb
from trillium.errors import InvalidRequest

TAG = "The older routing service"
LONGEST_ID = 32
"""Of a run; a deployment's may be longer."""

_ID = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_DESCRIPTION = (
    "`DEPLOY_CREATE` starts a predictor for `model`, `DEPLOY_LOAD` has it serve the model, "
    "`DEPLOY_UNLOAD` frees the model, `TERMINATE` removes the predictor: each answers the "
    "deployment. `TEMP` scores `dataset` with a predictor of its own and answers the run. Each "
    "answers when it is done; when the time is up first, the answer is 504 and the work goes on."
)


class RouterBody(BaseModel):
    """What is to be done. Other keys are ignored, as they always were."""

    model_config = ConfigDict(strict=True)

    job_id: str | int = Field(
        description="Id of the deployment or run. What cannot be one, such as 17 or Job_1, is "
        "turned into one, always the same; `name` in the answer has it."
    )
    model: str = Field(default="", description="Name of a registered model.")
    dataset: str | None = Field(default=None, description="Name of a registered dataset, for TEMP.")
    operation_type: Literal["DEPLOY_CREATE", "DEPLOY_LOAD", "DEPLOY_UNLOAD", "TERMINATE", "TEMP"]
    container_id: str | None = Field(
        default=None,
        description="Not needed, and ignored if it is none of ours. That of another deployment's "
        "predictor is refused.",
    )


class InferenceRouter:
    """Does what the older service did, by the controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._verbs: dict[str, Callable[[str, RouterBody, Asked], Awaitable[Any]]] = {
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

    async def _route(self, asked: Asked) -> Response:
        body: RouterBody = asked.body
        id = id_of(body.job_id)
        if body.container_id and body.operation_type not in ("DEPLOY_CREATE", "TEMP"):
            await self._check_container(id, body.container_id, asked)
        return json_response(to_json(await self._verbs[body.operation_type](id, body, asked)))

    async def _create(self, id: str, body: RouterBody, asked: Asked) -> Any:
        request = pb.CreateDeploymentRequest(deployment_id=id, model=_model(body))
        return await self._controller.ask(
            self._controller.deployments.CreateDeployment, request, asked
        )

    async def _load(self, id: str, body: RouterBody, asked: Asked) -> Any:
        request = pb.LoadDeploymentRequest(name=f"deployments/{id}", model=body.model)
        return await self._controller.ask(
            self._controller.deployments.LoadDeployment, request, asked
        )

    async def _unload(self, id: str, body: RouterBody, asked: Asked) -> Any:
        request = pb.UnloadDeploymentRequest(name=f"deployments/{id}")
        return await self._controller.ask(
            self._controller.deployments.UnloadDeployment, request, asked
        )

    async def _terminate(self, id: str, body: RouterBody, asked: Asked) -> Any:
        request = pb.TerminateDeploymentRequest(name=f"deployments/{id}")
        return await self._controller.ask(
            self._controller.deployments.TerminateDeployment, request, asked
        )

    async def _temp(self, id: str, body: RouterBody, asked: Asked) -> Any:
        if not body.dataset:
            raise InvalidRequest.of("dataset", "is empty; TEMP wants a registered dataset's name")
        request = run_pb.CreateRunRequest(run_id=id, model=_model(body), dataset=body.dataset)
        return await self._controller.ask(self._controller.runs.CreateRun, request, asked)

    async def _check_container(self, id: str, container_id: str, asked: Asked) -> None:
        """Raises InvalidRequest when the container is another deployment's."""
        request = pb.ListDeploymentsRequest(page_size=500)
        method = self._controller.deployments.ListDeployments
        while True:
            page = await self._controller.ask(method, request, asked)
            for each in page.deployments:
                owns = any(container_id == one.container_id for one in each.instances)
                if owns and each.name != f"deployments/{id}":
                    text = f"is {container_id[:80]!r}, which belongs to {each.name}, not to {id!r}"
                    raise InvalidRequest.of("container_id", text)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def id_of(job_id: str | int) -> str:
    """The id that a job has here: itself if it may be one, else one made of it."""
    text = str(job_id)
    if not text:
        raise InvalidRequest.of("job_id", "is empty; an id is wanted")
    if len(text) <= LONGEST_ID and _ID.fullmatch(text):
        return text
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:16].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return "-".join(part for part in ("job", readable, digest) if part)


def _model(body: RouterBody) -> str:
    if not body.model:
        raise InvalidRequest.of("model", "is empty; the name of a registered model is wanted")
    return body.model
