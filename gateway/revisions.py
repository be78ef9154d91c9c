"""What ensembles are and how they are served: applied, rolled back, deleted.

`gateway.ensembles` has their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from google.protobuf.message import Message
from pydantic import Field
from starlette.responses import Response

from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb

from .backend import Controller
from .control import WAITS, DeleteQuery, Name, NoWait, RequestId, ShortPageQuery, Version, answer
from .deployments import LimitsBody
from .ensembles import TAG
from .operation import HttpRequest, Operation, Promise, Strict

PREFIX = "ensembles/"
_CHANGE = (404, 409)


class ApplyClassBody(Strict):
    """A class that the ensemble is to have."""

    model: Name = Field(description="Name of a registered model.")
    model_version: Version = Field(default=0, description="0: the newest version.")
    class_label: str = Field(default="", description="If given, it must be the model's.")
    replica_count: int = Field(default=0, ge=0, le=64, description="0: as before, or 1.")
    limits: LimitsBody | None = Field(default=None, description="Null: those of the request.")


class ShareBody(Strict):
    """A part of the requests."""

    revision: Version = Field(description="In an application, 0 is the revision of that.")
    percent: int = Field(ge=1, le=100)


class ApplyBody(Strict):
    """What an ensemble is to be."""

    classes: list[ApplyClassBody] = Field(
        min_length=1, max_length=1000, description="In the order that settles ties."
    )
    limits: LimitsBody | None = Field(default=None, description="Null: as before.")
    traffic: list[ShareBody] = Field(
        default=[], max_length=100, description="Empty: all requests for these classes."
    )
    note: str = Field(default="", max_length=200, description="For the history.")
    rollback_window_s: float | None = Field(
        default=None, ge=0, le=86400, description="Null: as before, or 600."
    )
    etag: str = Field(default="", max_length=64, description="Of the ensemble that was read.")
    request_id: RequestId = ""
    no_wait: NoWait = False


class RollBackBody(Strict):
    """The revision that is to serve again."""

    revision: Version = Field(default=0, description="0: the one that served before.")
    request_id: RequestId = ""
    no_wait: NoWait = False


class ClassUpdateBody(Strict):
    """How a class is to be served."""

    class_label: str = Field(default="", description="Empty: every class.")
    replica_count: int = Field(default=0, ge=0, le=64, description="0: as it is.")
    limits: LimitsBody | None = Field(default=None, description="Null: as they are.")


class UpdateEnsembleBody(Strict):
    """How an ensemble is to be served; what is left out stays."""

    classes: list[ClassUpdateBody] = Field(default=[], max_length=1000)
    traffic: list[ShareBody] = Field(default=[], max_length=100)
    target: Literal["CREATED", "LOADED"] | None = Field(
        default=None, description="CREATED unloads all models."
    )
    etag: str = Field(default="", max_length=64)
    request_id: RequestId = ""
    no_wait: NoWait = False


class DeleteEnsembleQuery(DeleteQuery):
    """How an ensemble is deleted."""

    no_wait: NoWait = False


class RevisionRoutes:
    """The routes to the controller's ensembles."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def operations(self) -> Sequence[Operation]:
        one = "/v1/ensembles/{ensemble}"
        ensemble = Promise(200, "The ensemble.", pb.Ensemble)
        example = {"classes": [{"model": "iris-setosa"}, {"model": "iris-virginica"}]}
        return (
            Operation(
                "PUT", one, TAG, "Make an ensemble what the body describes", self._apply,
                (ensemble,),
                description=f"The same again changes nothing. {WAITS}", body=ApplyBody,
                body_example=example, refusals=_CHANGE, waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:plan", TAG, "Tell what applying the body would change", self._plan,
                (Promise(200, "What would change.", pb.PlanEnsembleResponse),), body=ApplyBody,
                body_example=example, refusals=_CHANGE,
            ),
            Operation(
                "POST", f"{one}:rollback", TAG, "Serve an earlier revision again", self._roll_back,
                (ensemble,), description=WAITS, body=RollBackBody, body_optional=True,
                refusals=_CHANGE, waits=True, changes=True,
            ),
            Operation(
                "POST", f"{one}:update", TAG, "Change replicas, limits, traffic or the target",
                self._update, (ensemble,), description=f"No call fails. {WAITS}",
                body=UpdateEnsembleBody, body_example={"classes": [{"replica_count": 2}]},
                refusals=_CHANGE, waits=True, changes=True,
            ),
            Operation(
                "DELETE", one, TAG, "Delete an ensemble with its predictors", self._delete,
                (Promise(200, "What was removed.", pb.DeleteEnsembleResponse),),
                query=DeleteEnsembleQuery, refusals=_CHANGE, waits=True, changes=True,
            ),
            Operation(
                "GET", f"{one}/status", TAG, "Get what serves and what is desired", self._get,
                (ensemble,), refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/revisions", TAG, "List the revisions, the newest first",
                self._revisions,
                (Promise(200, "Those that are kept.", pb.ListEnsembleRevisionsResponse),),
                refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/revisions/{{number}}", TAG, "Get a revision", self._revision,
                (Promise(200, "Which model answers for which class.", pb.EnsembleRevision),),
                refusals=(404,),
            ),
            Operation(
                "GET", "/v1/ensemble-statuses", TAG, "List what serves and what is desired",
                self._list, (Promise(200, "Sorted by id.", pb.ListEnsemblesResponse),),
                query=ShortPageQuery,
            ),
        )  # fmt: skip

    async def _apply(self, http: HttpRequest) -> Response:
        request = _application(http)
        return await self._answer(self._controller.ensembles.ApplyEnsemble, request, http)

    async def _plan(self, http: HttpRequest) -> Response:
        request = pb.PlanEnsembleRequest(apply=_application(http))
        return await self._answer(self._controller.ensembles.PlanEnsemble, request, http)

    async def _roll_back(self, http: HttpRequest) -> Response:
        request = pb.RollBackEnsembleRequest(name=_name(http), **http.body.model_dump())
        return await self._answer(self._controller.ensembles.RollBackEnsemble, request, http)

    async def _update(self, http: HttpRequest) -> Response:
        fields = http.body.model_dump(exclude_none=True)
        target = fields.pop("target", None)
        request = pb.UpdateEnsembleRequest(name=_name(http), **fields)
        if target is not None:
            request.target = deployment_pb.Target.Value(f"TARGET_{target}")
        return await self._answer(self._controller.ensembles.UpdateEnsemble, request, http)

    async def _delete(self, http: HttpRequest) -> Response:
        request = pb.DeleteEnsembleRequest(name=_name(http), **http.query.model_dump())
        return await self._answer(self._controller.ensembles.DeleteEnsemble, request, http)

    async def _get(self, http: HttpRequest) -> Response:
        request = pb.GetEnsembleRequest(name=_name(http))
        return await self._answer(self._controller.ensembles.GetEnsemble, request, http)

    async def _list(self, http: HttpRequest) -> Response:
        request = pb.ListEnsemblesRequest(**http.query.model_dump())
        return await self._answer(self._controller.ensembles.ListEnsembles, request, http)

    async def _revisions(self, http: HttpRequest) -> Response:
        request = pb.ListEnsembleRevisionsRequest(name=_name(http))
        method = self._controller.ensembles.ListEnsembleRevisions
        return await self._answer(method, request, http)

    async def _revision(self, http: HttpRequest) -> Response:
        name = f"{_name(http)}/revisions/{http.path['number']}"
        request = pb.GetEnsembleRevisionRequest(name=name)
        return await self._answer(self._controller.ensembles.GetEnsembleRevision, request, http)

    async def _answer(self, method: Any, request: Message, http: HttpRequest) -> Response:
        return await answer(self._controller, method, request, http)


def _application(http: HttpRequest) -> pb.ApplyEnsembleRequest:
    fields = http.body.model_dump(exclude_none=True)
    return pb.ApplyEnsembleRequest(ensemble_id=http.path["ensemble"], **fields)


def _name(http: HttpRequest) -> str:
    return PREFIX + http.path["ensemble"]
