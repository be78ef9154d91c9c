"""The Open Inference Protocol on an aggregator: codes, statistics, models, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from grpc import aio

from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor, after, hangs
from tests.aggregator.serving import Aggregated, aggregating, before_fakes, failure_of
from tests.oip.calling import call, numbers, question, streamed
from tests.oip.golden.cases import FLOWERS, wanted
from tests.sound_artifacts import iris_rows
from tests.waiting import eventually
from trillium.errors import Code
from trillium.oip import open_inference_pb2 as pb

ROW = [[0.5, 0.25, 0.125]]


async def begun(fake: FakePredictor, served: Aggregated) -> asyncio.Future[pb.ModelInferResponse]:
    """A request that the fake has got."""
    before = len(fake.requests)
    task = asyncio.ensure_future(call(served.channel, "ModelInfer", question(ROW, "fake")))
    await eventually(lambda: len(fake.requests) > before)
    return task


async def test_many_rows_are_answered_as_predict_answers_them(aggregator: Aggregated) -> None:
    rows = np.tile(iris_rows(), (60, 1))

    response = await call(aggregator.channel, "ModelInfer", question(rows, "iris"))

    assert np.array_equal(numbers(response), await aggregator.scores(rows))


async def test_a_full_queue_is_unavailable_and_says_when_to_come_again() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    async with before_fakes(fake, max_queued_rows=1) as served:
        first = await begun(fake, served)
        waiting = asyncio.ensure_future(call(served.channel, "ModelInfer", question(ROW, "fake")))
        await eventually(lambda: served.waiting_rows() == 1)

        failed = await failure_of(call(served.channel, "ModelInfer", question(ROW, "fake")))

        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert failed.retry_s > 0
        gate.set()
        assert numbers(await first).tolist() == numbers(await waiting).tolist() == [[0.5]]


async def test_what_never_reached_a_predictor_is_unavailable() -> None:
    fake = FakePredictor()
    async with before_fakes(fake) as served:
        await fake.stop()
        await eventually(lambda: served.states_are("unavailable"))

        failed = await failure_of(call(served.channel, "ModelInfer", question(ROW, "fake")))

        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "PREDICTORS_FAILED")
        assert not (await call(served.channel, "ModelReady", name="fake")).ready
        assert not (await call(served.channel, "ServerReady")).ready
        listed = (await call(served.channel, "RepositoryIndex")).models
        assert [each.state for each in listed] == ["UNAVAILABLE"] * 2
        assert listed[0].reason == "not ready: a"
        assert not (await call(served.channel, "RepositoryIndex", ready=True)).models


async def test_what_was_run_is_never_unavailable() -> None:
    fake = FakePredictor()
    fake.otherwise = fakes.fails(Code.INTERNAL, "no")
    async with before_fakes(fake) as served:
        failed = await failure_of(call(served.channel, "ModelInfer", question(ROW, "fake")))

        assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "PREDICTORS_FAILED")
        assert [each.class_label for each in failed.missing] == ["a"]


async def test_what_one_class_has_run_is_never_unavailable_either() -> None:
    one, other = FakePredictor("a"), FakePredictor("b", column=1, script=[hangs])
    async with before_fakes(one, other) as served:
        running = await begun(other, served)
        queued = asyncio.ensure_future(call(served.channel, "ModelInfer", question(ROW, "fake")))
        await eventually(lambda: one.answered_count == 2)
        await other.stop()

        for each in (running, queued):
            failed = await failure_of(each)
            assert failed.code is grpc.StatusCode.INTERNAL
            assert [missing.class_label for missing in failed.missing] == ["b"]


async def test_timeout_parameter_ends_the_wait() -> None:
    fake = FakePredictor(script=[hangs])
    async with before_fakes(fake) as served:
        request = question(ROW, "fake", timeout=50_000)
        failed = await failure_of(call(served.channel, "ModelInfer", request))
        assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_nothing_is_known_before_the_first_contact() -> None:
    fake = FakePredictor()
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False) as served:
        for rpc in ("ModelMetadata", "ModelConfig", "ModelStatistics"):
            failed = await failure_of(call(served.channel, rpc, name="fake"))
            assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_METADATA")
        assert (await call(served.channel, "ServerLive")).live
        assert not (await call(served.channel, "ServerReady")).ready
        assert not (await call(served.channel, "ModelStatistics")).model_stats

        fake.may_describe.set()
        await served.until_ready()

        assert (await call(served.channel, "ServerReady")).ready
        assert (await call(served.channel, "ModelMetadata", name="fake")).name == "fake"


async def test_a_class_is_asked_alone() -> None:
    one, other = FakePredictor("a", column=0), FakePredictor("b", column=1)
    async with before_fakes(one, other) as served:
        response = await call(served.channel, "ModelInfer", question(ROW, "fake-b"))

        assert numbers(response).tolist() == [[0.25]]
        assert (len(one.requests), len(other.requests)) == (0, 1)
        metadata = await call(served.channel, "ModelMetadata", name="fake-b")
        assert [(each.name, list(each.shape)) for each in metadata.outputs] == [
            ("probabilities", [-1, 1])
        ]
        assert metadata.platform != "ensemble"
        await one.stop()
        await eventually(lambda: served.states_are("unavailable", "ready"))
        assert (await call(served.channel, "ModelReady", name="fake-b")).ready
        assert not (await call(served.channel, "ModelReady", name="fake")).ready
        listed = (await call(served.channel, "RepositoryIndex", ready=True)).models
        assert [each.name for each in listed] == ["fake-b"]


async def test_statistics_count_what_was_asked_by_either_api() -> None:
    one, other = FakePredictor("a", column=0), FakePredictor("b", column=1)
    async with before_fakes(one, other) as served:
        await call(served.channel, "ModelInfer", question(ROW * 3, "fake"))
        await served.scores(ROW * 4)
        await call(served.channel, "ModelInfer", question(ROW, "fake-b"))
        one.otherwise = fakes.fails(Code.INTERNAL, "no")
        await failure_of(call(served.channel, "ModelInfer", question(ROW, "fake")))
        await failure_of(call(served.channel, "ModelInfer", question([[0.5]], "fake")))

        told = (await call(served.channel, "ModelStatistics")).model_stats

        assert [each.name for each in told] == ["fake", "fake-a", "fake-b"]
        whole, never, alone = told
        assert (whole.inference_count, whole.execution_count) == (7, 2)
        assert whole.inference_stats.success.count == whole.inference_stats.queue.count == 2
        assert whole.inference_stats.compute_input.count == 1
        assert whole.inference_stats.fail.count == 1
        times = whole.inference_stats
        assert times.success.ns == pytest.approx(times.queue.ns + times.compute_infer.ns, abs=10)
        assert times.compute_infer.ns > 0
        assert whole.last_inference > 1_600_000_000_000
        assert (never.inference_count, never.last_inference) == (0, 0)
        assert (alone.inference_count, alone.inference_stats.success.count) == (1, 1)


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_models_are_not_loaded_here(aggregator: Aggregated, rpc: str) -> None:
    failed = await failure_of(call(aggregator.channel, rpc, model_name="iris"))

    assert (failed.code, failed.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED")
    assert "controller" in failed.message


async def test_everything_that_is_wrong_is_told_at_once(aggregator: Aggregated) -> None:
    request = question(FLOWERS, "iris", outputs=[wanted("colour")], timeout="soon")
    request.inputs[0].datatype = "INT64"
    request.inputs[0].shape[:] = [3, 5]

    failed = await failure_of(call(aggregator.channel, "ModelInfer", request))

    assert failed.fields == [
        "inputs[0].datatype",
        "inputs[0].shape",
        "outputs[0].name",
        "parameters.timeout",
    ]


async def test_a_stream_answers_in_order_and_works_on_several_at_once() -> None:
    gate = asyncio.Event()
    one, other = FakePredictor("a", script=[after(gate)]), FakePredictor("b", column=1)
    async with before_fakes(one, other) as served:
        slow = question(ROW, "fake-a", request_id="slow")
        quick = question(ROW, "fake-b", request_id="quick")
        answers = streamed(served.channel, iter((slow, quick)))
        await eventually(lambda: other.answered_count == 1)
        gate.set()

        ids = [answer.infer_response.id async for answer in answers]

    assert ids == ["slow", "quick"]


async def test_a_stream_is_answered_and_then_ended_when_the_server_stops() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])

    async def endless() -> AsyncIterator[pb.ModelInferRequest]:
        yield question(ROW, "fake", request_id="last")
        await asyncio.Event().wait()

    async def open_when_draining(served: Aggregated) -> None:
        await eventually(lambda: not served.aggregator.health.is_serving())
        gate.set()

    async with fakes.running(fake):
        async with aggregating(fake.endpoint) as served:
            channel = aio.insecure_channel(served.aggregator.address)
            answers = streamed(channel, endless())
            await eventually(lambda: len(fake.requests) == 1)
            opening = asyncio.create_task(open_when_draining(served))
        await opening
        response = await answers.read()
        assert response.infer_response.id == "last"
        failed = await failure_of(answers.read())
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await channel.close()
