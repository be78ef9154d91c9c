"""RunService: messages to orders and runs and back, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from trillium.controller.v1 import run_service_pb2 as pb
from trillium.errors import Draining, InvalidRequest, Violation
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.waking import first_of

from .. import names
from ..requests import Requests
from .orders import RunOrders
from .repository import Runs
from .results import Result
from .run import Order, Run, RunState

RUN_SERVICE = "trillium.controller.v1.RunService"
DEFAULT_TIMEOUT_S = 3600.0
LONGEST_TIMEOUT_S = 24 * 3600.0
STREAMED_ROWS = 1000
"""Rows in one message of StreamResults."""
_LONGEST_NAME = 128

_STATES = {state: pb.RunState.Value(f"RUN_STATE_{state.name}") for state in RunState}


class RunServicer:
    """Accepts orders and returns runs."""

    def __init__(self, orders: RunOrders, runs: Runs, requests: Requests) -> None:
        self._orders = orders
        self._runs = runs
        self._requests = requests
        self.draining = asyncio.Event()
        """Set when the server is about to stop: watches then end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["RunService"],
            {
                "CreateRun": self._create,
                "GetRun": self._get,
                "ListRuns": self._list,
                "WatchRun": self._watch,
                "CancelRun": self._cancel,
                "DeleteRun": self._delete,
                "ListResults": self._results,
                "StreamResults": self._stream,
            },
        )

    async def _create(self, request: pb.CreateRunRequest, call: Call) -> pb.Run:
        order = _order(request)
        await self._requests.check(request.request_id, names.request_digest(request))
        id = request.run_id or names.made_up_id("r", request.request_id)
        stored = await self._orders.place(order, id)
        if not request.no_wait:
            stored = await self._runs.ended(id)
        return run_message(stored.value)

    async def _get(self, request: pb.GetRunRequest, call: Call) -> pb.Run:
        stored = await self._runs.found(_run_id(request.name, "name"))
        return run_message(stored.value)

    async def _list(self, request: pb.ListRunsRequest, call: Call) -> pb.ListRunsResponse:
        size = names.page_size(request.page_size, 100, 1000)
        states = [_state(number, index) for index, number in enumerate(request.states)]
        page = await self._runs.page(
            after=names.after_of(request.page_token),
            limit=size,
            states=states,
            model=request.model,
        )
        more = len(page) == size
        token = names.page_token(page[-1].id) if more else ""
        messages = [run_message(stored.value) for stored in page]
        return pb.ListRunsResponse(
            runs=messages,
            next_page_token=token,
            unreadable=names.unreadable(self._runs, names.RUNS, request.page_token),
        )

    async def _watch(
        self, request: pb.WatchRunRequest, call: Call
    ) -> AsyncGenerator[pb.WatchRunResponse]:
        id = _run_id(request.name, "name")
        told = None
        while True:
            changed = self._runs.changed()
            stored = await self._runs.found(id)
            message = run_message(stored.value)
            # Signs of life change the record and are not reported.
            if message != told:
                told = message
                yield pb.WatchRunResponse(run=message)
            if stored.value.has_ended:
                return
            await first_of(changed.wait(), self.draining.wait())
            if self.draining.is_set():
                raise Draining("the controller stops; watch again")

    async def _cancel(self, request: pb.CancelRunRequest, call: Call) -> pb.Run:
        stored = await self._runs.cancel(_run_id(request.name, "name"))
        return run_message(stored.value)

    async def _delete(self, request: pb.DeleteRunRequest, call: Call) -> pb.DeleteRunResponse:
        id = _run_id(request.name, "name")
        run = await self._runs.remove(id, validate_only=request.validate_only)
        return pb.DeleteRunResponse(deleted_rows=run.rows_done)

    async def _results(self, request: pb.ListResultsRequest, call: Call) -> pb.ListResultsResponse:
        id = _run_id(request.run, "run")
        size = names.page_size(request.page_size, 1000, 10_000)
        first = _row(names.after_of(request.page_token))
        run = (await self._runs.found(id)).value
        if first > run.rows_total:
            raise InvalidRequest.of("page_token", "is none of this run")
        results = await self._runs.results(run, first, size)
        after = first + len(results)
        token = names.page_token(str(after)) if after < run.rows_total else ""
        messages = [_result(result) for result in results]
        return pb.ListResultsResponse(results=messages, next_page_token=token)

    async def _stream(
        self, request: pb.StreamResultsRequest, call: Call
    ) -> AsyncGenerator[pb.StreamResultsResponse]:
        run = (await self._runs.found(_run_id(request.run, "run"))).value
        first = request.first_row
        if first > run.rows_total:
            text = f"is {first}; the run has {run.rows_total} rows"
            raise InvalidRequest.of("first_row", text)
        while results := await self._runs.results(run, first, STREAMED_ROWS):
            messages = [_result(result) for result in results]
            yield pb.StreamResultsResponse(results=messages)
            first += len(results)


def run_message(run: Run) -> pb.Run:
    """A run as its message."""
    evaluation = None
    if run.evaluation is not None:
        evaluation = pb.Evaluation(
            accuracy=run.evaluation.accuracy,
            labels=run.evaluation.labels,
            confusion=run.evaluation.confusion,
        )
    return pb.Run(
        name=names.RUNS + run.id,
        model=run.model,
        model_version=run.model_version,
        dataset=run.dataset,
        dataset_version=run.dataset_version,
        deployment=names.DEPLOYMENTS + run.deployment,
        temporary=run.temporary,
        state=_STATES[run.state],
        detail=run.detail,
        rows_done=run.rows_done,
        rows_total=run.rows_total,
        evaluation=evaluation,
        attempt_count=run.attempts,
        create_time=_timestamp(run.created),
        end_time=None if run.ended is None else _timestamp(run.ended),
        deadline_time=_timestamp(run.deadline),
        expire_time=_timestamp(run.expires),
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _result(result: Result) -> pb.Result:
    return pb.Result(row=result.row, probability=result.probability, label=result.label)


def _order(request: pb.CreateRunRequest) -> Order:
    """The order that a request means; raises InvalidRequest with every wrong field."""
    wrong: list[Violation] = []
    checks: list[Callable[[], object]] = [
        lambda: _name(request.model, "model"),
        lambda: _name(request.dataset, "dataset"),
        lambda: names.checked_token(request.request_id, "request_id", 64),
    ]
    if request.run_id:
        checks.append(lambda: names.checked_id(request.run_id, "run_id", names.LONGEST_RUN_ID))
    if request.deployment:
        checks.append(lambda: _deployment_id(request.deployment))
    for check in checks:
        try:
            check()
        except InvalidRequest as error:
            wrong += error.violations
    timeout_s = DEFAULT_TIMEOUT_S
    if request.HasField("timeout"):
        timeout_s = request.timeout.ToNanoseconds() / 1e9
        if not 1e-3 <= timeout_s <= LONGEST_TIMEOUT_S:
            wrong.append(Violation("timeout", f"is {timeout_s:g} s; 1 ms to 24 h allowed"))
    if wrong:
        raise InvalidRequest(wrong)
    return Order(
        model=request.model,
        model_version=request.model_version,
        dataset=request.dataset,
        dataset_version=request.dataset_version,
        deployment=_deployment_id(request.deployment) if request.deployment else "",
        timeout_s=timeout_s,
    )


def _name(text: str, field: str) -> str:
    """The name of a model or dataset, as far as that can be checked without looking it up."""
    if not text:
        raise InvalidRequest.of(field, f"is empty; expected the name of a registered {field}")
    return names.checked_token(text, field, _LONGEST_NAME)


def _run_id(name: str, field: str) -> str:
    return names.id_in(name, names.RUNS, field, names.LONGEST_RUN_ID)


def _deployment_id(name: str) -> str:
    most = names.LONGEST_DEPLOYMENT_ID
    return names.id_in(name, names.DEPLOYMENTS, "deployment", most)


def _state(number: int, index: int) -> RunState:
    for state, known in _STATES.items():
        if known == number:
            return state
    raise InvalidRequest.of(f"states[{index}]", f"is {number}; no such state")


def _row(after: str) -> int:
    """The row that a page token of results holds; 0 for the first page."""
    if after and not (after.isascii() and after.isdecimal() and len(after) < 20):
        raise InvalidRequest.of("page_token", "is none of a run's results")
    return int(after or 0)
