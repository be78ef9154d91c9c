"""Deployments: `/v1/deployments/...`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from starlette.responses import Response

from gateway.backend import Controller
from gateway.control import (
    WAITS,
    EventsQuery,
    Name,
    NoWait,
    PageToken,
    RequestId,
    Version,
    numbers_of,
    states_of,
)
from gateway.events import EVENT_STREAM, Event, event_stream
from gateway.messages import to_json
from gateway.operation import (
    PATH_PARAMETERS,
    Asked,
    Operation,
    Promise,
    Query,
    Strict,
    json_response,
)
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

TAG = "Deployments"
PREFIX = "deployments/"
_VERB = (404, 409)


class LimitsBody(Strict):
    """What each predictor may use."""

    cpus: float | None = Field(default=None, ge=0.1, le=64, description="Cores.")
    memory_bytes: int | None = Field(
        default=None, ge=64 * 2**20, lt=2**63, description="Memory in bytes, swap included."
    )


class CreateBody(Strict):
    """Asks for predictors without a model."""

    deployment_id: str = Field(
        default="",
        max_length=40,
        pattern="^([a-z]([a-z0-9-]*[a-z0-9])?)?$",
        description="Lower-case letters, digits and '-'; empty has one made up.",
    )
    model: Name
    model_version: Version = Field(default=0, description="0 means the newest.")
    replica_count: int = Field(default=0, ge=0, le=64, description="Predictors; 0 means 1.")
    limits: LimitsBody | None = None
    request_id: RequestId = ""
    no_wait: NoWait = False


class LoadBody(Strict):
    """Asks that a deployment serve its model."""

    model: str = Field(
        default="",
        max_length=128,
        pattern="^[A-Za-z0-9._-]*$",
        description="Only needed if the deployment was never created.",
    )
    model_version: Version = Field(
        default=0, description="0 means the deployment's own, or the newest if it is created."
    )
    newest_version: bool = Field(default=False, description="Whatever version it has now.")
    request_id: RequestId = ""
    no_wait: NoWait = False


class VerbBody(Strict):
    """How a verb is to be carried out."""

    request_id: RequestId = ""
    no_wait: NoWait = False


class ListQuery(Query):
    """Which deployments, and which page of them."""

    page_size: int = Field(default=0, ge=0, le=500, description="Most in one answer; 0: 100.")
    page_token: PageToken = ""
    states: states_of(deployment_pb.State) = Field(  # type: ignore[valid-type]
        default=[], description="Only those in one of these states."
    )
    model: str = Field(default="", description="Only those of this model.")


class WatchQuery(Query):
    """Which deployments."""

    deployment: str = Field(
        default="",
        pattern=f"^({PATH_PARAMETERS['deployment'].pattern.strip('^$')})?$",
        description="Only this one; empty means all.",
    )


class Deployments:
    """Answers for the controller's deployments."""

    def __init__(self, controller: Controller, draining: asyncio.Event) -> None:
        self._controller = controller
        self._draining = draining

    def operations(self) -> Sequence[Operation]:
        path = "/v1/deployments"
        one = f"{path}/{{deployment}}"
        told = Promise(200, "The deployment.", deployment_pb.Deployment)
        return (
            Operation(
                "GET", path, TAG, "List deployments", self._list,
                (Promise(200, "In the order of their ids.", pb.ListDeploymentsResponse),),
                query=ListQuery,
            ),
            Operation(
                "POST", path, TAG, "Start predictors, without a model (DEPLOY_CREATE)",
                self._create, (told,), description=WAITS, body=CreateBody, refusals=_VERB,
                body_example={"deployment_id": "a1", "model": "iris-setosa"}, waits=True,
                changes=True,
            ),
            Operation(
                "GET", f"{path}:watch", TAG, "Watch deployments", self._watch,
                (Promise(200, _WATCHED, {"type": "string"}, EVENT_STREAM),), query=WatchQuery,
                description=_WATCHING, refusals=(404,),
            ),
            Operation(
                "GET", one, TAG, "Tell one deployment", self._get, (told,), refusals=(404,)
            ),
            Operation(
                "POST", f"{one}:load", TAG, "Serve the model (DEPLOY_LOAD)", self._load, (told,),
                description=f"Creates the deployment first if needed. {WAITS}", body=LoadBody,
                body_optional=True, refusals=_VERB, waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:unload", TAG, "Free the model (DEPLOY_UNLOAD)", self._unload,
                (told,), description=WAITS, body=VerbBody, body_optional=True, refusals=_VERB,
                waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:terminate", TAG, "Remove the predictors (TERMINATE)",
                self._terminate, (told,), description=WAITS, body=VerbBody, body_optional=True,
                refusals=_VERB, waits=True, changes=True,
            ),
            Operation(
                "GET", f"{one}/events", TAG, "What happened to a deployment", self._events,
                (Promise(200, "Oldest first.", pb.ListDeploymentEventsResponse),),
                query=EventsQuery, refusals=(404,),
            ),
            Operation(
                "GET", "/v1/servers", TAG, "What runs predictors", self._servers,
                (Promise(200, "Machines and engines.", pb.ListServersResponse),),
            ),
        )  # fmt: skip

    async def _create(self, asked: Asked) -> Response:
        body: CreateBody = asked.body
        limits = None
        if body.limits is not None:
            limits = deployment_pb.Limits(**body.limits.model_dump(exclude_none=True))
        fields = body.model_dump(exclude={"limits"})
        request = pb.CreateDeploymentRequest(limits=limits, **fields)
        return await self._verb(self._controller.deployments.CreateDeployment, request, asked)

    async def _load(self, asked: Asked) -> Response:
        request = pb.LoadDeploymentRequest(name=_name(asked), **asked.body.model_dump())
        return await self._verb(self._controller.deployments.LoadDeployment, request, asked)

    async def _unload(self, asked: Asked) -> Response:
        request = pb.UnloadDeploymentRequest(name=_name(asked), **asked.body.model_dump())
        return await self._verb(self._controller.deployments.UnloadDeployment, request, asked)

    async def _terminate(self, asked: Asked) -> Response:
        request = pb.TerminateDeploymentRequest(name=_name(asked), **asked.body.model_dump())
        return await self._verb(self._controller.deployments.TerminateDeployment, request, asked)

    async def _get(self, asked: Asked) -> Response:
        request = pb.GetDeploymentRequest(name=_name(asked))
        return await self._verb(self._controller.deployments.GetDeployment, request, asked)

    async def _list(self, asked: Asked) -> Response:
        query: Any = asked.query
        request = pb.ListDeploymentsRequest(
            page_size=query.page_size,
            page_token=query.page_token,
            states=numbers_of(deployment_pb.State, query.states),
            model=query.model,
        )
        return await self._verb(self._controller.deployments.ListDeployments, request, asked)

    async def _events(self, asked: Asked) -> Response:
        request = pb.ListDeploymentEventsRequest(name=_name(asked), **asked.query.model_dump())
        return await self._verb(self._controller.deployments.ListDeploymentEvents, request, asked)

    async def _servers(self, asked: Asked) -> Response:
        request = pb.ListServersRequest()
        return await self._verb(self._controller.deployments.ListServers, request, asked)

    async def _watch(self, asked: Asked) -> Response:
        id = asked.query.deployment
        request = pb.WatchDeploymentsRequest(name=PREFIX + id if id else "")
        method = self._controller.deployments.WatchDeployments
        changes = self._controller.stream(method, request, asked, _watch_s(asked))
        return await event_stream(changes, _event, self._draining)

    async def _verb(self, method: Any, request: Any, asked: Asked) -> Response:
        return json_response(to_json(await self._controller.ask(method, request, asked)))


_WATCHING = (
    "Server-sent events: `deployment` with a deployment, first for each one that there is, then "
    "`snapshot_end`, then again `deployment` with each change, and `forgotten` when a record is "
    "gone. A comment comes every 15 seconds. `problem` with a problem ends a watch that failed. "
    "Whoever connects again begins with all deployments. With the header request-timeout it ends "
    "then; otherwise it has no end."
)
_WATCHED = "Events, each with JSON as its data."


def _watch_s(asked: Asked) -> float | None:
    return asked.left_s if asked.timed else None


def _event(message: pb.WatchDeploymentsResponse) -> Event:
    match message.WhichOneof("event"):
        case "deployment":
            return Event("deployment", to_json(message.deployment))
        case "forgotten":
            return Event("forgotten", {"name": message.forgotten})
        case _:
            return Event("snapshot_end", {})


def _name(asked: Asked) -> str:
    return PREFIX + asked.path["deployment"]
