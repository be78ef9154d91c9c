"""Runs and their results: `/v1/runs/...`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from google.protobuf.message import Message
from pydantic import Field
from starlette.responses import Response

from trillium.controller.v1 import run_service_pb2 as pb

from . import results
from .backend import Controller
from .control import (
    WAITS,
    DeleteQuery,
    DeploymentId,
    Name,
    NoWait,
    PageQuery,
    RequestId,
    Version,
    answer,
    created,
    numbers_of,
    states_of,
)
from .events import EVENT_STREAM, ServerSentEvent, event_stream
from .messages import to_json
from .operation import HttpRequest, Operation, Promise, Query, Strict
from .streamed import Streamed, begun

TAG = "Runs"
PREFIX = "runs/"


class RunBody(Strict):
    """A dataset to score with a model."""

    model: Name
    model_version: Version = Field(
        default=0, description="0: the newest, or the one that `deployment` serves."
    )
    dataset: Name
    dataset_version: Version = Field(default=0, description="0: the newest version.")
    deployment: DeploymentId = Field(
        default="",
        description="Id of a loaded deployment to use; empty: one for this run only (TEMP).",
    )
    run_id: str = Field(
        default="",
        max_length=32,
        pattern="^([a-z]([a-z0-9-]*[a-z0-9])?)?$",
        description="Lower-case letters, digits and '-'; empty: a generated id.",
    )
    request_id: RequestId = ""
    no_wait: NoWait = False
    timeout_s: float = Field(
        default=3600.0, ge=1, le=86_400, description="Time limit of the run in seconds."
    )


class RunsQuery(PageQuery):
    """Which runs to list."""

    states: states_of(pb.RunState) = Field(  # type: ignore[valid-type]
        default=[], description="Only runs in one of these states."
    )
    model: str = Field(default="", description="Only runs of this model.")


class ResultsQuery(PageQuery):
    """A page of the results."""

    page_size: int = Field(default=0, ge=0, le=10_000, description="Maximum per page; 0: 1000.")


class DownloadQuery(Query):
    """The format of the results."""

    format: Literal["json", "csv", "parquet"] = Field(
        default="csv", description="Format of the file."
    )


class RunRoutes:
    """The routes to the controller's runs."""

    def __init__(self, controller: Controller, draining: asyncio.Event) -> None:
        self._controller = controller
        self._draining = draining

    def operations(self) -> Sequence[Operation]:
        one = "/v1/runs/{run}"
        run = Promise(200, "The run.", pb.Run)
        made = Promise(201, "The run; `location` is its path.", pb.Run)
        files = [
            Promise(200, f"All results as {name}.", schema, media_type)
            for name, (media_type, schema) in results.FORMATS.items()
        ]
        return (
            Operation(
                "GET", "/v1/runs", TAG, "List runs", self._list,
                (Promise(200, "Sorted by id.", pb.ListRunsResponse),),
                query=RunsQuery,
            ),
            Operation(
                "POST", "/v1/runs", TAG, "Score a dataset", self._create, (made,),
                description=WAITS, body=RunBody, refusals=(404, 409), waits=True, changes=True,
                body_example={"model": "iris-setosa", "dataset": "iris"},
            ),
            Operation("GET", one, TAG, "Get a run", self._get, (run,), refusals=(404,)),
            Operation(
                "POST", f"{one}:cancel", TAG, "Cancel a run", self._cancel, (run,), refusals=(404,),
                description="A run that has ended does not change.", changes=True,
            ),
            Operation(
                "DELETE", one, TAG, "Delete a run that has ended, with its results", self._delete,
                (Promise(200, "The number of rows that it had.", pb.DeleteRunResponse),),
                query=DeleteQuery, refusals=(404,), changes=True,
            ),
            Operation(
                "GET", f"{one}:watch", TAG, "Watch a run", self._watch,
                (Promise(200, "Events with a run as data.", {"type": "string"},
                         EVENT_STREAM),),
                description="Server-sent events: `run` for the run and for each of its changes, "
                "until it ends. `problem` ends a watch that failed.",
                refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/results", TAG, "List the results, page by page", self._results,
                (Promise(200, "In the order of the rows of the dataset.", pb.ListResultsResponse),),
                query=ResultsQuery, refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/results:download", TAG, "Download all results", self._download,
                files, query=DownloadQuery, refusals=(404,),
                description="Sent while it is read: a connection that ends early means that the "
                "file is incomplete. Parquet requires pyarrow in the gateway; without it, the "
                "status is 501.",
            ),
        )  # fmt: skip

    async def _create(self, http: HttpRequest) -> Response:
        body: RunBody = http.body
        request = pb.CreateRunRequest(
            deployment=f"deployments/{body.deployment}" if body.deployment else "",
            **body.model_dump(exclude={"deployment", "timeout_s"}),
        )
        request.timeout.FromNanoseconds(round(body.timeout_s * 1e9))
        method = self._controller.runs.CreateRun
        return await created(self._controller, method, request, http, "/v1/runs")

    async def _get(self, http: HttpRequest) -> Response:
        request = pb.GetRunRequest(name=_name(http))
        return await self._answer(self._controller.runs.GetRun, request, http)

    async def _cancel(self, http: HttpRequest) -> Response:
        request = pb.CancelRunRequest(name=_name(http))
        return await self._answer(self._controller.runs.CancelRun, request, http)

    async def _delete(self, http: HttpRequest) -> Response:
        request = pb.DeleteRunRequest(name=_name(http), validate_only=http.query.validate_only)
        return await self._answer(self._controller.runs.DeleteRun, request, http)

    async def _list(self, http: HttpRequest) -> Response:
        query: Any = http.query
        request = pb.ListRunsRequest(
            page_size=query.page_size,
            page_token=query.page_token,
            states=numbers_of(pb.RunState, query.states),
            model=query.model,
        )
        return await self._answer(self._controller.runs.ListRuns, request, http)

    async def _results(self, http: HttpRequest) -> Response:
        request = pb.ListResultsRequest(run=_name(http), **http.query.model_dump())
        return await self._answer(self._controller.runs.ListResults, request, http)

    async def _watch(self, http: HttpRequest) -> Response:
        method = self._controller.runs.WatchRun
        request = pb.WatchRunRequest(name=_name(http))
        limit_s = http.left_s if http.timed else None
        changes = self._controller.stream(method, request, http, limit_s)
        return await event_stream(
            changes, lambda message: ServerSentEvent("run", to_json(message.run)), self._draining
        )

    async def _download(self, http: HttpRequest) -> Response:
        kind: str = http.query.format
        write = results.writer(kind)
        method = self._controller.runs.StreamResults
        request = pb.StreamResultsRequest(run=_name(http))
        # A large file takes long to send, so only the caller's own deadline is short.
        limit_s = http.left_s if http.timed else results.LONGEST_S
        batches = await begun(self._controller.stream(method, request, http, limit_s))
        name = f"{http.path['run']}.{kind}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Streamed(write(batches), results.FORMATS[kind][0], headers)

    async def _answer(self, method: Any, request: Message, http: HttpRequest) -> Response:
        return await answer(self._controller, method, request, http)


def _name(http: HttpRequest) -> str:
    return PREFIX + http.path["run"]
