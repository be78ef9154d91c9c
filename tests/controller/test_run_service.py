"""RunService over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from controller.requests import Requests
from controller.runs.service import RUN_SERVICE, RunServicer
from tests.artifacts import iris_rows
from tests.controller.run_fakes import Gate
from tests.controller.run_world import Controller, World, open_world
from tests.waiting import eventually
from trillium.access.door import Door
from trillium.client.wire import error_of
from trillium.controller.v1 import run_service_pb2 as pb
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.errors import InvalidRequest, TrilliumError
from trillium.rpc.front import Front
from trillium.rpc.methods import Limits

IRIS = {"model": "iris-setosa", "dataset": "iris"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@dataclass
class Asking:
    """A caller of the service, and the controller behind it."""

    stub: Any
    controller: Controller

    async def create(self, **fields: Any) -> pb.Run:
        request = pb.CreateRunRequest(**{**IRIS, **fields})
        run: pb.Run = await self.stub.CreateRun(request, timeout=60)
        return run


@asynccontextmanager
async def asking(world: World, controller: Controller) -> AsyncIterator[Asking]:
    requests = Requests(world.store, world.clock)
    service = RunServicer(controller.orders, controller.runs, requests).service()
    front = Front((service,), ("127.0.0.1:0",), Limits(), door=Door())
    await front.start()
    try:
        async with aio.insecure_channel(front.addresses[0]) as channel:
            yield Asking(RunServiceStub(channel), controller)
    finally:
        await front.stop(0)


async def refusal(call: Awaitable[Any]) -> TrilliumError:
    """The error that a call is answered with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return error_of(caught.value, "here", 20)


def reason(error: TrilliumError) -> str:
    return f"{error.code.name}/{error.reason}"


async def test_a_run_is_created_carried_out_and_told_over_the_wire(world: World) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        run = await caller.create(run_id="flowers")
        assert run.name == "runs/flowers"
        assert (run.model, run.model_version, run.dataset, run.dataset_version) == (
            *("iris-setosa", 1),
            *("iris", 1),
        )
        assert (run.deployment, run.temporary) == ("deployments/run-flowers", True)
        assert (run.state, run.detail) == (pb.RUN_STATE_SUCCEEDED, "")
        assert (run.rows_done, run.rows_total, run.attempt_count) == (150, 150, 1)
        assert run.evaluation.accuracy == 1.0
        assert list(run.evaluation.labels) == ["setosa", "rest"]
        assert list(run.evaluation.confusion) == [50, 0, 0, 100]
        assert _seconds(run.create_time) <= _seconds(run.end_time)
        assert _seconds(run.deadline_time) - _seconds(run.create_time) == pytest.approx(3600)
        week = 7 * 24 * 3600
        assert _seconds(run.expire_time) - _seconds(run.deadline_time) == pytest.approx(week)
        got = await caller.stub.GetRun(pb.GetRunRequest(name="runs/flowers"), timeout=60)
        assert got == run


async def test_results_are_paged_and_streamed_after_the_deployment_is_gone(
    world: World,
) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        run = await caller.create()
        await eventually(world.is_bare)
        pages, token = [], ""
        while True:
            request = pb.ListResultsRequest(run=run.name, page_size=33, page_token=token)
            page = await caller.stub.ListResults(request, timeout=60)
            pages.append(list(page.results))
            token = page.next_page_token
            if not token:
                break
        assert [len(page) for page in pages] == [33, 33, 33, 33, 18]
        results = [result for page in pages for result in page]
        assert [result.row for result in results] == list(range(150))
        assert {result.label for result in results} == {"setosa", "other"}
        assert all((each.probability >= 0.5) == (each.label == "setosa") for each in results)
        whole = await caller.stub.ListResults(pb.ListResultsRequest(run=run.name), timeout=60)
        assert (list(whole.results), whole.next_page_token) == (results, "")
        for first in (0, 47, 150):
            asked = pb.StreamResultsRequest(run=run.name, first_row=first)
            streamed = [
                result
                async for message in caller.stub.StreamResults(asked, timeout=60)
                for result in message.results
            ]
            assert streamed == results[first:]


async def test_a_request_that_comes_a_hundred_times_at_once_is_one_run(world: World) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        request = {"request_id": "abc", "timeout": Duration(seconds=90)}
        runs = await asyncio.gather(*(caller.create(**request) for _ in range(100)))
        assert all(run == runs[0] for run in runs)
        assert runs[0].state == pb.RUN_STATE_SUCCEEDED
        assert len(await controller.runs.page()) == 1
        assert controller.predictors.asked == 15
        assert world.runtime.created == 1
        error = await refusal(caller.create(request_id="abc", dataset="bare"))
        assert reason(error) == "ALREADY_EXISTS/REQUEST_ID_REUSED"


async def test_an_id_is_for_one_order(world: World) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        run = await caller.create(run_id="r1")
        assert await caller.create(run_id="r1") == run
        error = await refusal(caller.create(run_id="r1", dataset="bare"))
        assert reason(error) == "ALREADY_EXISTS/RUN_EXISTS"


async def test_a_run_is_watched_until_it_has_ended(world: World) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        placed = await caller.create(run_id="r1", no_wait=True)
        assert placed.state == pb.RUN_STATE_QUEUED
        call = caller.stub.WatchRun(pb.WatchRunRequest(name="runs/r1"), timeout=60)
        runs = [message.run async for message in call]
        assert runs[-1].state == pb.RUN_STATE_SUCCEEDED
        states = [run.state for run in runs]
        assert states == sorted(states)
        assert all(one != other for one, other in pairwise(runs))


async def test_a_callers_deadline_does_not_end_the_run(world: World) -> None:
    gate = Gate()
    async with world.working(scoring=gate) as controller, asking(world, controller) as caller:
        request = pb.CreateRunRequest(model="iris-setosa", dataset="iris", run_id="r1")
        call = caller.stub.CreateRun(request, timeout=60)
        await gate.reached.wait()
        call.cancel()
        gate.open.set()
        run = await controller.ended()
        assert run.rows_done == 150


async def test_a_run_is_cancelled_and_whoever_waits_is_told(world: World) -> None:
    gate = Gate()
    async with world.working(scoring=gate) as controller, asking(world, controller) as caller:
        waiting = asyncio.create_task(caller.create(run_id="r1"))
        await gate.reached.wait()
        request = pb.CancelRunRequest(name="runs/r1")
        run = await caller.stub.CancelRun(request, timeout=60)
        assert (run.state, run.rows_done) == (pb.RUN_STATE_CANCELLED, 20)
        assert await waiting == run
        assert await caller.stub.CancelRun(request, timeout=60) == run
        results = caller.stub.ListResults(pb.ListResultsRequest(run="runs/r1"), timeout=60)
        error = await refusal(results)
        assert reason(error) == "FAILED_PRECONDITION/ILLEGAL_STEP"
        await eventually(world.is_bare)


async def test_runs_are_listed_by_page_state_and_model(world: World) -> None:
    controller = world.controller()
    async with asking(world, controller) as caller:
        for id in ("rb", "ra", "rd", "rc"):
            await caller.create(run_id=id, no_wait=True)
        await controller.runs.cancel("rc")

        async def listed(**fields: Any) -> tuple[list[str], str]:
            answer = await caller.stub.ListRuns(pb.ListRunsRequest(**fields), timeout=60)
            return [run.name.removeprefix("runs/") for run in answer.runs], answer.next_page_token

        assert await listed() == (["ra", "rb", "rc", "rd"], "")
        first, token = await listed(page_size=3)
        assert first == ["ra", "rb", "rc"]
        assert await listed(page_size=3, page_token=token) == (["rd"], "")
        assert await listed(states=[pb.RUN_STATE_CANCELLED]) == (["rc"], "")
        live = [pb.RUN_STATE_QUEUED, pb.RUN_STATE_RUNNING]
        assert (await listed(states=live, model="iris-setosa"))[0] == ["ra", "rb", "rd"]
        assert await listed(model="another") == ([], "")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"model": ""}, {"model"}),
        ({"dataset": ""}, {"dataset"}),
        ({"model": "../secret", "dataset": "a\0b"}, {"model", "dataset"}),
        ({"model": "x" * 129}, {"model"}),
        ({"deployment": "a1"}, {"deployment"}),
        ({"deployment": "deployments/../a1"}, {"deployment"}),
        ({"run_id": "R1"}, {"run_id"}),
        ({"run_id": "r" * 33}, {"run_id"}),
        ({"request_id": "a b"}, {"request_id"}),
        ({"timeout": Duration(nanos=999_999)}, {"timeout"}),
        ({"timeout": Duration(seconds=86_401)}, {"timeout"}),
        ({"timeout": Duration(seconds=-1)}, {"timeout"}),
        (
            {"model": "", "run_id": "-", "timeout": Duration()},
            {"model", "run_id", "timeout"},
        ),
    ],
)
async def test_every_wrong_field_of_an_order_is_named(
    world: World, fields: dict[str, Any], wrong: set[str]
) -> None:
    controller = world.controller()
    async with asking(world, controller) as caller:
        error = await refusal(caller.create(**fields))
        assert isinstance(error, InvalidRequest)
        assert {violation.field for violation in error.violations} == wrong
        assert not await controller.runs.page()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"model": "none"}, "NOT_FOUND/MODEL_NOT_FOUND"),
        ({"dataset": "none"}, "NOT_FOUND/DATASET_NOT_FOUND"),
        ({"deployment": "deployments/none"}, "NOT_FOUND/DEPLOYMENT_NOT_FOUND"),
        ({"dataset": "narrow"}, "INVALID_ARGUMENT/INVALID_REQUEST"),
    ],
)
async def test_an_order_that_does_not_fit_what_is_there_is_refused(
    world: World, fields: dict[str, str], wanted: str
) -> None:
    world.catalog.add_dataset("narrow", iris_rows()[:, :3], names=("a", "b", "c"))
    async with asking(world, world.controller()) as caller:
        assert reason(await refusal(caller.create(**fields))) == wanted


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("GetRun", pb.GetRunRequest(name="r1"), "name"),
        ("CancelRun", pb.CancelRunRequest(name="runs/"), "name"),
        ("ListRuns", pb.ListRunsRequest(page_size=1001), "page_size"),
        ("ListRuns", pb.ListRunsRequest(page_token="?"), "page_token"),
        ("ListRuns", pb.ListRunsRequest(states=[pb.RUN_STATE_QUEUED, 99]), "states[1]"),  # type: ignore[list-item]
        ("ListResults", pb.ListResultsRequest(run="x"), "run"),
        ("ListResults", pb.ListResultsRequest(run="runs/r1", page_size=10_001), "page_size"),
        ("ListResults", pb.ListResultsRequest(run="runs/r1", page_token="eA=="), "page_token"),
        ("ListResults", pb.ListResultsRequest(run="runs/r1", page_token="OTk5"), "page_token"),
        ("ListResults", pb.ListResultsRequest(run="runs/r1", page_token="OTk5" * 99), "page_token"),
    ],
)
async def test_every_wrong_field_is_named(
    world: World, method: str, request_message: Any, field: str
) -> None:
    async with asking(world, world.controller()) as caller:
        await caller.create(run_id="r1", no_wait=True)
        error = await refusal(getattr(caller.stub, method)(request_message, timeout=60))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == [field]


async def test_a_run_that_is_not_there_is_not_found_by_any_method(world: World) -> None:
    async with asking(world, world.controller()) as caller:
        stub, name = caller.stub, "runs/none"
        streams = (
            stub.WatchRun(pb.WatchRunRequest(name=name), timeout=60),
            stub.StreamResults(pb.StreamResultsRequest(run=name), timeout=60),
        )
        calls = (
            stub.GetRun(pb.GetRunRequest(name=name), timeout=60),
            stub.CancelRun(pb.CancelRunRequest(name=name), timeout=60),
            stub.ListResults(pb.ListResultsRequest(run=name), timeout=60),
            *(anext(aiter(stream)) for stream in streams),
        )
        for call in calls:
            assert reason(await refusal(call)) == "NOT_FOUND/RUN_NOT_FOUND"


async def test_a_row_that_is_not_there_is_refused(world: World) -> None:
    async with world.working() as controller, asking(world, controller) as caller:
        run = await caller.create()
        request = pb.StreamResultsRequest(run=run.name, first_row=151)
        error = await refusal(anext(aiter(caller.stub.StreamResults(request, timeout=60))))
        assert isinstance(error, InvalidRequest)
        assert error.violations[0].field == "first_row"


def test_the_service_has_the_methods_of_its_proto() -> None:
    descriptor = pb.DESCRIPTOR.services_by_name["RunService"]
    servicer = RunServicer(None, None, None)  # type: ignore[arg-type]
    service = servicer.service()
    assert service.name == descriptor.full_name == RUN_SERVICE
    assert {each.name for each in service.methods} == {each.name for each in descriptor.methods}


def _seconds(stamp: Timestamp) -> float:
    return stamp.ToNanoseconds() / 1e9
