"""Deployments: `/v1/deployments/...`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from pydantic import Field
from starlette.responses import Response

from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

from .backend import Controller
from .control import (
    WAITS,
    DeploymentId,
    Name,
    NoWait,
    RequestId,
    ShortPageQuery,
    Version,
    answer,
    created,
    numbers_of,
    states_of,
)
from .events import EVENT_STREAM, ServerSentEvent, event_stream
from .messages import to_json
from .operation import (
    HttpRequest,
    Operation,
    Promise,
    Query,
    Strict,
)

TAG = "Deployments"
PREFIX = "deployments/"
_VERB = (404, 409)


class LimitsBody(Strict):
    """Limits of each predictor."""

    cpus: float | None = Field(default=None, ge=0.1, le=64, description="Cores.")
    memory_bytes: int | None = Field(
        default=None, ge=64 * 2**20, lt=2**63, description="Memory in bytes, swap included."
    )


class CreateBody(Strict):
    """A deployment to create."""

    deployment_id: DeploymentId = Field(
        default="", description="Lower-case letters, digits and '-'; empty: a generated id."
    )
    model: Name
    model_version: Version = Field(default=0, description="0: the newest version.")
    replica_count: int = Field(default=0, ge=0, le=64, description="Number of predictors; 0: 1.")
    limits: LimitsBody | None = None
    request_id: RequestId = ""
    no_wait: NoWait = False


class LoadBody(Strict):
    """The model that a deployment loads."""

    model: str = Field(
        default="",
        max_length=128,
        pattern="^[A-Za-z0-9._-]*$",
        description="Required only if the deployment does not exist.",
    )
    model_version: Version = Field(
        default=0, description="0: the deployment's version, or the newest for a new one."
    )
    newest_version: bool = Field(
        default=False, description="Load the newest version, whichever the deployment has."
    )
    request_id: RequestId = ""
    no_wait: NoWait = False


class UpdateBody(Strict):
    """What of a deployment changes."""

    replica_count: int = Field(ge=1, le=64, description="Number of predictors.")
    request_id: RequestId = ""
    no_wait: NoWait = False


class VerbBody(Strict):
    """How a command is applied."""

    request_id: RequestId = ""
    no_wait: NoWait = False


class ListQuery(ShortPageQuery):
    """Which deployments to list."""

    states: states_of(deployment_pb.State) = Field(  # type: ignore[valid-type]
        default=[], description="Only deployments in one of these states."
    )
    model: str = Field(default="", description="Only deployments of this model.")


class WatchQuery(Query):
    """Which deployments to watch."""

    deployment: DeploymentId = Field(default="", description="Only this one; empty: all.")


class DeploymentRoutes:
    """The routes to the controller's deployments."""

    def __init__(self, controller: Controller, draining: asyncio.Event) -> None:
        self._controller = controller
        self._draining = draining

    def operations(self) -> Sequence[Operation]:
        path = "/v1/deployments"
        one = f"{path}/{{deployment}}"
        deployment = Promise(200, "The deployment.", deployment_pb.Deployment)
        made = Promise(201, "The deployment; `location` is its path.", deployment_pb.Deployment)
        return (
            Operation(
                "GET", path, TAG, "List deployments", self._list,
                (Promise(200, "Sorted by id.", pb.ListDeploymentsResponse),),
                query=ListQuery,
            ),
            Operation(
                "POST", path, TAG, "Start predictors without loading the model (DEPLOY_CREATE)",
                self._create, (made,), description=WAITS, body=CreateBody, refusals=_VERB,
                body_example={"deployment_id": "a1", "model": "iris-setosa"}, waits=True,
                changes=True,
            ),
            Operation(
                "GET", f"{path}:watch", TAG, "Watch deployments", self._watch,
                (Promise(200, _WATCHED, {"type": "string"}, EVENT_STREAM),), query=WatchQuery,
                description=_WATCHING, refusals=(404,),
            ),
            Operation(
                "GET", one, TAG, "Get a deployment", self._get, (deployment,), refusals=(404,)
            ),
            Operation(
                "POST", f"{one}:load", TAG, "Load the model (DEPLOY_LOAD)", self._load,
                (deployment,), description=f"Creates the deployment if it does not exist. {WAITS}",
                body=LoadBody, body_optional=True, refusals=_VERB, waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:update", TAG, "Change the number of predictors", self._update,
                (deployment,), description=f"Up or down, and no call fails. {WAITS}",
                body=UpdateBody, refusals=_VERB, body_example={"replica_count": 3}, waits=True,
                changes=True,
            ),
            Operation(
                "POST", f"{one}:unload", TAG, "Unload the model (DEPLOY_UNLOAD)", self._unload,
                (deployment,), description=WAITS, body=VerbBody, body_optional=True, refusals=_VERB,
                waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:terminate", TAG, "Remove the predictors (TERMINATE)",
                self._terminate, (deployment,), description=WAITS, body=VerbBody,
                body_optional=True, refusals=_VERB, waits=True, changes=True,
            ),
            Operation(
                "GET", f"{one}/events", TAG, "List the events of a deployment", self._events,
                (Promise(200, "Oldest first.", pb.ListDeploymentEventsResponse),),
                query=ShortPageQuery, refusals=(404,),
            ),
            Operation(
                "GET", "/v1/servers", TAG, "List the servers that run predictors", self._servers,
                (Promise(200, "Machines and engines.", pb.ListServersResponse),),
            ),
        )  # fmt: skip

    async def _create(self, http: HttpRequest) -> Response:
        body: CreateBody = http.body
        limits = None
        if body.limits is not None:
            limits = deployment_pb.Limits(**body.limits.model_dump(exclude_none=True))
        fields = body.model_dump(exclude={"limits"})
        request = pb.CreateDeploymentRequest(limits=limits, **fields)
        method = self._controller.deployments.CreateDeployment
        return await created(self._controller, method, request, http, "/v1/deployments")

    async def _load(self, http: HttpRequest) -> Response:
        request = pb.LoadDeploymentRequest(name=_name(http), **http.body.model_dump())
        return await self._answer(self._controller.deployments.LoadDeployment, request, http)

    async def _update(self, http: HttpRequest) -> Response:
        request = pb.UpdateDeploymentRequest(name=_name(http), **http.body.model_dump())
        return await self._answer(self._controller.deployments.UpdateDeployment, request, http)

    async def _unload(self, http: HttpRequest) -> Response:
        request = pb.UnloadDeploymentRequest(name=_name(http), **http.body.model_dump())
        return await self._answer(self._controller.deployments.UnloadDeployment, request, http)

    async def _terminate(self, http: HttpRequest) -> Response:
        request = pb.TerminateDeploymentRequest(name=_name(http), **http.body.model_dump())
        return await self._answer(self._controller.deployments.TerminateDeployment, request, http)

    async def _get(self, http: HttpRequest) -> Response:
        request = pb.GetDeploymentRequest(name=_name(http))
        return await self._answer(self._controller.deployments.GetDeployment, request, http)

    async def _list(self, http: HttpRequest) -> Response:
        query: Any = http.query
        request = pb.ListDeploymentsRequest(
            page_size=query.page_size,
            page_token=query.page_token,
            states=numbers_of(deployment_pb.State, query.states),
            model=query.model,
        )
        return await self._answer(self._controller.deployments.ListDeployments, request, http)

    async def _events(self, http: HttpRequest) -> Response:
        request = pb.ListDeploymentEventsRequest(name=_name(http), **http.query.model_dump())
        return await self._answer(self._controller.deployments.ListDeploymentEvents, request, http)

    async def _servers(self, http: HttpRequest) -> Response:
        request = pb.ListServersRequest()
        return await self._answer(self._controller.deployments.ListServers, request, http)

    async def _watch(self, http: HttpRequest) -> Response:
        id = http.query.deployment
        request = pb.WatchDeploymentsRequest(name=PREFIX + id if id else "")
        method = self._controller.deployments.WatchDeployments
        changes = self._controller.stream(method, request, http, _watch_s(http))
        return await event_stream(changes, _event, self._draining)

    async def _answer(self, method: Any, request: Message, http: HttpRequest) -> Response:
        return await answer(self._controller, method, request, http)


_WATCHING = (
    "Server-sent events: `deployment` for each existing deployment, then `snapshot_end`, then "
    "`deployment` for each change and `forgotten` when a record is removed. A comment follows "
    "every 15 seconds without an event. `problem` ends a watch that failed. A new connection "
    "starts with all deployments. Only the header request-timeout sets a deadline."
)
_WATCHED = "Events with JSON as data."


def _watch_s(http: HttpRequest) -> float | None:
    return http.left_s if http.timed else None


def _event(message: pb.WatchDeploymentsResponse) -> ServerSentEvent:
    match message.WhichOneof("event"):
        case "deployment":
            return ServerSentEvent("deployment", to_json(message.deployment))
        case "forgotten":
            return ServerSentEvent("forgotten", {"name": message.forgotten})
        case _:
            return ServerSentEvent("snapshot_end", {})


def _name(http: HttpRequest) -> str:
    return PREFIX + http.path["deployment"]
