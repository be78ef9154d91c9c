"""Runs and their results: `/v1/runs/...`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from gateway import results
from gateway.backend import Controller
from gateway.control import (
    WAITS,
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
from gateway.operation import Asked, Operation, Promise, Query, Strict, json_response
from gateway.streamed import Streamed, begun
from trillium.controller.v1 import run_service_pb2 as pb

TAG = "Runs"
PREFIX = "runs/"


class RunBody(Strict):
    """Asks to score a dataset with a model."""

    model: Name
    model_version: Version = Field(
        default=0, description="0 means the newest, or the one that `deployment` serves."
    )
    dataset: Name
    dataset_version: Version = Field(default=0, description="0 means the newest.")
    deployment: str = Field(
        default="",
        max_length=40,
        pattern="^([a-z]([a-z0-9-]*[a-z0-9])?)?$",
        description="Id of a loaded deployment to use; empty makes one for this run (TEMP).",
    )
    run_id: str = Field(
        default="",
        max_length=32,
        pattern="^([a-z]([a-z0-9-]*[a-z0-9])?)?$",
        description="Lower-case letters, digits and '-'; empty has one made up.",
    )
    request_id: RequestId = ""
    no_wait: NoWait = False
    timeout_s: float = Field(
        default=3600.0, ge=1, le=86_400, description="Seconds that the run may take."
    )


class RunsQuery(Query):
    """Which runs, and which page of them."""

    page_size: int = Field(default=0, ge=0, le=1000, description="Most in one answer; 0: 100.")
    page_token: PageToken = ""
    states: states_of(pb.RunState) = Field(  # type: ignore[valid-type]
        default=[], description="Only those in one of these states."
    )
    model: str = Field(default="", description="Only those of this model.")


class ResultsQuery(Query):
    """Which page of the results."""

    page_size: int = Field(default=0, ge=0, le=10_000, description="Most in one answer; 0: 1000.")
    page_token: PageToken = ""


class DownloadQuery(Query):
    """How the results are written."""

    format: Literal["json", "csv", "parquet"] = Field(
        default="csv", description="What the file is."
    )


class Runs:
    """Answers for the controller's runs."""

    def __init__(self, controller: Controller, draining: asyncio.Event) -> None:
        self._controller = controller
        self._draining = draining

    def operations(self) -> Sequence[Operation]:
        one = "/v1/runs/{run}"
        told = Promise(200, "The run.", pb.Run)
        files = [
            Promise(200, f"All results as {name}.", schema, media_type)
            for name, (media_type, schema) in results.FORMATS.items()
        ]
        return (
            Operation(
                "GET", "/v1/runs", TAG, "List runs", self._list,
                (Promise(200, "In the order of their ids.", pb.ListRunsResponse),),
                query=RunsQuery,
            ),
            Operation(
                "POST", "/v1/runs", TAG, "Score a dataset", self._create, (told,),
                description=WAITS, body=RunBody, refusals=(404, 409), waits=True, changes=True,
                body_example={"model": "iris-setosa", "dataset": "iris"},
            ),
            Operation("GET", one, TAG, "Tell one run", self._get, (told,), refusals=(404,)),
            Operation(
                "POST", f"{one}:cancel", TAG, "End a run", self._cancel, (told,), refusals=(404,),
                description="One that has ended already is left as it is.", changes=True,
            ),
            Operation(
                "GET", f"{one}:watch", TAG, "Watch a run", self._watch,
                (Promise(200, "Events, each with a run as its data.", {"type": "string"},
                         EVENT_STREAM),),
                description="Server-sent events named `run`: the run, then each change of it, "
                "until it has ended. `problem` with a problem ends a watch that failed.",
                refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/results", TAG, "A page of the results", self._results,
                (Promise(200, "In the order of the dataset's rows.", pb.ListResultsResponse),),
                query=ResultsQuery, refusals=(404,),
            ),
            Operation(
                "GET", f"{one}/results:download", TAG, "All results as a file", self._download,
                files, query=DownloadQuery, refusals=(404,),
                description="Sent while it is read. Parquet needs pyarrow where the gateway runs, "
                "and is answered with 501 without it. A connection that ends early means that the "
                "file is not whole.",
            ),
        )  # fmt: skip

    async def _create(self, asked: Asked) -> Response:
        body: RunBody = asked.body
        request = pb.CreateRunRequest(
            deployment=f"deployments/{body.deployment}" if body.deployment else "",
            **body.model_dump(exclude={"deployment", "timeout_s"}),
        )
        request.timeout.FromNanoseconds(round(body.timeout_s * 1e9))
        return await self._told(self._controller.runs.CreateRun, request, asked)

    async def _get(self, asked: Asked) -> Response:
        request = pb.GetRunRequest(name=_name(asked))
        return await self._told(self._controller.runs.GetRun, request, asked)

    async def _cancel(self, asked: Asked) -> Response:
        request = pb.CancelRunRequest(name=_name(asked))
        return await self._told(self._controller.runs.CancelRun, request, asked)

    async def _list(self, asked: Asked) -> Response:
        query: Any = asked.query
        request = pb.ListRunsRequest(
            page_size=query.page_size,
            page_token=query.page_token,
            states=numbers_of(pb.RunState, query.states),
            model=query.model,
        )
        return await self._told(self._controller.runs.ListRuns, request, asked)

    async def _results(self, asked: Asked) -> Response:
        request = pb.ListResultsRequest(run=_name(asked), **asked.query.model_dump())
        return await self._told(self._controller.runs.ListResults, request, asked)

    async def _watch(self, asked: Asked) -> Response:
        method = self._controller.runs.WatchRun
        request = pb.WatchRunRequest(name=_name(asked))
        limit_s = asked.left_s if asked.timed else None
        changes = self._controller.stream(method, request, asked, limit_s)
        return await event_stream(
            changes, lambda message: Event("run", to_json(message.run)), self._draining
        )

    async def _download(self, asked: Asked) -> Response:
        kind: str = asked.query.format
        write = results.writer(kind)
        method = self._controller.runs.StreamResults
        request = pb.StreamResultsRequest(run=_name(asked))
        # A long file takes long: its caller may set the time, and may go away.
        limit_s = asked.left_s if asked.timed else results.LONGEST_S
        batches = await begun(self._controller.stream(method, request, asked, limit_s))
        name = f"{asked.path['run']}.{kind}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Streamed(write(batches), results.FORMATS[kind][0], headers)

    async def _told(self, method: Any, request: Any, asked: Asked) -> Response:
        return json_response(to_json(await self._controller.ask(method, request, asked)))


def _name(asked: Asked) -> str:
    return PREFIX + asked.path["run"]
