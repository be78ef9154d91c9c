"""Every RPC of AggregatorService, with real models and real predictors behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from aggregator.plans.roster import Endpoint
from tests.aggregator.fakes import FakePredictor, after, hangs, matrix, scores
from tests.aggregator.serving import (
    CALL_S,
    IRIS,
    SERVICE,
    Aggregated,
    Failed,
    FloatRows,
    aggregating,
    before_fakes,
    failure_of,
    from_status,
    instances,
    packed,
    real_predictors,
    reference,
    unpacked,
    whole_ensemble,
)
from tests.artifacts import iris_rows
from tests.rpc.errors import refused
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.training import builtin_table
from trillium.training.split import split

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DIGITS = tuple("0123456789")


@pytest.fixture
async def iris(models: Path) -> AsyncIterator[Aggregated]:
    async with whole_ensemble(models, "iris", IRIS) as served:
        yield served


@pytest.fixture(scope="session")
def truth(models: Path) -> FloatRows:
    """What ONNX Runtime itself answers for all of iris."""
    return reference(models, "iris", IRIS, iris_rows())


async def test_a_matrix_is_answered_as_onnx_runtime_would(
    iris: Aggregated, truth: FloatRows
) -> None:
    answer = await iris.predict(iris_rows())
    assert list(answer.class_labels) == list(IRIS)
    assert answer.ensemble == "iris"
    assert not answer.degraded
    assert not answer.predictions
    assert np.array_equal(unpacked(answer.probabilities), truth)


async def test_instances_are_answered_as_the_matrix_is(iris: Aggregated, truth: FloatRows) -> None:
    request = pb.PredictRequest(instances=instances(iris_rows()))
    answer = await iris.stub.Predict(request, timeout=CALL_S)
    assert not answer.HasField("probabilities")
    assert np.array_equal(
        np.array([each.probabilities for each in answer.predictions], np.float32), truth
    )


async def test_some_classes_are_answered_in_metadata_order(
    iris: Aggregated, truth: FloatRows
) -> None:
    answer = await iris.predict(iris_rows(), class_labels=["virginica", "setosa"])
    assert list(answer.class_labels) == ["setosa", "virginica"]
    assert np.array_equal(unpacked(answer.probabilities), truth[:, [0, 2]])


async def test_classify_names_the_most_probable_class(iris: Aggregated, truth: FloatRows) -> None:
    best = truth.argmax(axis=1)
    written = await iris.stub.Classify(
        pb.ClassifyRequest(instances=instances(iris_rows())), timeout=CALL_S
    )
    assert [each.label for each in written.classifications] == [IRIS[index] for index in best]
    assert [each.probability for each in written.classifications] == truth.max(axis=1).tolist()
    assert not any(each.undecided or each.probabilities for each in written.classifications)
    block = await iris.stub.Classify(pb.ClassifyRequest(matrix=packed(iris_rows())), timeout=CALL_S)
    assert list(block.class_labels) == list(IRIS)
    assert list(block.packed.label_indexes) == best.tolist()
    assert list(block.packed.label_probabilities) == truth.max(axis=1).tolist()
    assert not block.packed.HasField("probabilities")


async def test_classify_answers_every_probability_on_request(
    iris: Aggregated, truth: FloatRows
) -> None:
    written = await iris.stub.Classify(
        pb.ClassifyRequest(instances=instances(iris_rows()), include_probabilities=True),
        timeout=CALL_S,
    )
    probabilities = [each.probabilities for each in written.classifications]
    assert np.array_equal(np.array(probabilities, np.float32), truth)
    block = await iris.stub.Classify(
        pb.ClassifyRequest(matrix=packed(iris_rows()), include_probabilities=True), timeout=CALL_S
    )
    assert np.array_equal(unpacked(block.packed.probabilities), truth)


async def test_the_sample_is_scored(iris: Aggregated, truth: FloatRows) -> None:
    answer = await iris.stub.PredictSample(pb.PredictSampleRequest(), timeout=CALL_S)
    assert np.array_equal(np.array(answer.features, np.float32), iris_rows()[0])
    assert list(answer.class_labels) == list(IRIS)
    assert list(answer.probabilities) == truth[0].tolist()
    assert answer.label == "setosa"


async def test_metadata_says_what_may_be_sent(models: Path) -> None:
    limits = {"max_rows": 77, "max_message_bytes": 4096, "default_timeout_s": 2.5}
    async with whole_ensemble(models, "iris", IRIS, **limits) as served:
        answer = await served.stub.GetMetadata(pb.GetMetadataRequest(), timeout=CALL_S)
    assert answer.ensemble == "iris"
    assert list(answer.class_labels) == list(IRIS)
    assert list(answer.feature_names) == [
        "sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm",
    ]  # fmt: skip
    assert answer.feature_count == 4
    assert answer.dtype == "FP32"
    assert list(answer.input_shape) == [-1, 4]
    assert list(answer.output_shape) == [-1, 3]
    assert answer.sample == pytest.approx([5.1, 3.5, 1.4, 0.2], abs=1e-6)
    assert (answer.max_row_count, answer.max_message_bytes) == (77, 4096)
    assert answer.default_timeout.ToMilliseconds() == 2500


async def test_predictors_are_listed_with_state_and_digest(models: Path, iris: Aggregated) -> None:
    listed = await iris.listed()
    assert [each.class_label for each in listed] == list(IRIS)
    assert await iris.states() == ["ready"] * 3
    assert all(len(each.model_digest) == 64 for each in listed)
    assert len({each.model_digest for each in listed}) == 3
    assert all(each.state_time.seconds > 1_600_000_000 for each in listed)
    assert not any(each.detail for each in listed)


async def test_digits_are_classified_by_ten_predictors(models: Path) -> None:
    digits = split("digits", builtin_table("digits"))
    rows = digits.table.rows[digits.held_out].astype(np.float32)
    async with whole_ensemble(models, "digits", DIGITS) as served:
        answer = await served.stub.Classify(pb.ClassifyRequest(matrix=packed(rows)), timeout=CALL_S)
        scores = await served.scores(rows)
    assert np.array_equal(scores, reference(models, "digits", DIGITS, rows))
    right = np.array(answer.packed.label_indexes) == digits.table.classes[digits.held_out]
    assert right.mean() >= 0.93


async def test_two_predictors_of_one_class_share_the_load() -> None:
    gate = asyncio.Event()
    fakes = [FakePredictor(), FakePredictor()]
    for fake in fakes:
        fake.otherwise = after(gate)
    async with before_fakes(*fakes, max_batch_rows=1) as served:
        await eventually(lambda: all(fake.stream_count for fake in fakes))
        calls = [asyncio.ensure_future(served.scores([[0.5, 0, 0]])) for _ in range(20)]
        await eventually(lambda: all(fake.requests for fake in fakes))
        gate.set()
        assert [(await each).tolist() for each in calls] == [[[0.5]]] * 20
    assert sum(len(fake.requests) for fake in fakes) == 20


async def test_rows_of_many_calls_travel_in_one_batch() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    async with before_fakes(fake) as served:
        first = asyncio.ensure_future(served.scores([[0.5, 0, 0]]))
        await eventually(lambda: bool(fake.requests))
        others = [
            asyncio.ensure_future(served.scores([[value, 0, 0]] * 3))
            for value in (0.125, 0.25, 0.75)
        ]
        await eventually(lambda: served.waiting_rows() == 9)
        gate.set()
        assert (await first).tolist() == [[0.5]]
        answers = [(await each)[:, 0].tolist() for each in others]
        assert answers == [[0.125] * 3, [0.25] * 3, [0.75] * 3]
    assert [request.matrix.row_count for request in fake.requests] == [1, 9]


async def test_allow_partial_answers_what_there_is(models: Path, truth: FloatRows) -> None:
    paths = [models / f"iris-{label}.onnx" for label in ("setosa", "virginica")]
    async with real_predictors(*paths) as (first, last):
        endpoints = (
            Endpoint("setosa", first.address),
            Endpoint("versicolor", "127.0.0.1:1"),
            Endpoint("virginica", last.address),
        )
        async with aggregating(*endpoints, ready=False) as served:
            await eventually(lambda: served.states_are("ready", "unavailable", "ready"))
            answer = await served.predict(iris_rows(), allow_partial=True)
            assert answer.degraded
            assert list(answer.class_labels) == ["setosa", "virginica"]
            assert np.array_equal(unpacked(answer.probabilities), truth[:, [0, 2]])
            (missing,) = answer.missing
            assert missing.class_label == "versicolor"
            assert missing.address == "127.0.0.1:1"
            assert missing.phase == pb.FAILURE_PHASE_CONNECT
            assert missing.message == "connection refused"
            whole = await served.predict(
                iris_rows(), allow_partial=True, class_labels=["setosa", "virginica"]
            )
            assert not whole.degraded
            failed = await failure_of(
                served.predict(iris_rows(), allow_partial=True, class_labels=["versicolor"])
            )
            assert failed.reason == "PREDICTORS_FAILED"


async def test_classify_never_guesses_over_a_missing_class() -> None:
    first, last = FakePredictor("a", column=0), FakePredictor("c", column=2)
    async with (
        before_fakes(first, last) as _,
        aggregating(
            first.endpoint, Endpoint("b", "127.0.0.1:1"), last.endpoint, ready=False
        ) as served,
    ):
        await eventually(lambda: served.states_are("ready", "unavailable", "ready"))
        rows: list[list[float]] = [[1, 0, 0.5], [0.5, 0, 0.25], [0, 0, 1]]
        written = await served.stub.Classify(
            pb.ClassifyRequest(
                instances=instances(rows), allow_partial=True, include_probabilities=True
            ),
            timeout=CALL_S,
        )
        answers = [
            (each.label, each.probability, each.undecided) for each in written.classifications
        ]
        assert answers == [("a", 1, False), ("", 0, True), ("", 0, True)]
        assert [list(each.probabilities) for each in written.classifications] == [
            [1, 0.5], [0.5, 0.25], [0, 1],
        ]  # fmt: skip
        assert written.degraded
        assert [each.class_label for each in written.missing] == ["b"]
        block = await served.stub.Classify(
            pb.ClassifyRequest(matrix=packed(rows), allow_partial=True), timeout=CALL_S
        )
        assert list(block.packed.label_indexes) == [0, -1, -1]
        assert list(block.packed.label_probabilities) == [1, 0, 0]
        failed = await failure_of(
            served.stub.Classify(pb.ClassifyRequest(matrix=packed(rows)), timeout=CALL_S)
        )
        assert [each.class_label for each in failed.missing] == ["b"]


async def test_ties_go_to_the_first_class() -> None:
    fakes = [FakePredictor(label, column=column) for column, label in enumerate("zya")]
    async with before_fakes(*fakes) as served:
        answer = await served.stub.Classify(
            pb.ClassifyRequest(instances=instances([[0.5, 0.5, 0.5], [0, 0.5, 0.5]])),
            timeout=CALL_S,
        )
        assert [each.label for each in answer.classifications] == ["z", "y"]


async def test_without_a_sample_there_is_none_to_score() -> None:
    async with before_fakes(FakePredictor()) as served:
        call = served.stub.PredictSample(pb.PredictSampleRequest(), timeout=CALL_S)
        failed = await failure_of(call)
        assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SAMPLE")


async def test_without_any_contact_there_is_no_metadata() -> None:
    async with aggregating(Endpoint("a", "127.0.0.1:1"), ready=False) as served:
        await eventually(lambda: served.states_are("unavailable"))
        for call in (
            served.stub.GetMetadata(pb.GetMetadataRequest(), timeout=CALL_S),
            served.stub.PredictSample(pb.PredictSampleRequest(), timeout=CALL_S),
        ):
            failed = await failure_of(call)
            assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_METADATA")
            assert "a at 127.0.0.1:1: connection refused" in failed.message


async def test_health_follows_the_predictors() -> None:
    fakes = [FakePredictor("a"), FakePredictor("b", column=1)]
    async with before_fakes(*fakes) as served:
        watch = served.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        assert await served.is_serving()
        await fakes[1].stop()
        assert (await watch.read()).status == NOT_SERVING
        assert not await served.is_serving()
        assert not await served.is_serving(SERVICE)
        await fakes[1].start()
        assert (await watch.read()).status == SERVING
        assert await served.is_serving()
        watch.cancel()


async def test_health_does_not_know_every_service() -> None:
    async with before_fakes(FakePredictor()) as served:
        with pytest.raises(aio.AioRpcError) as caught:
            await served.is_serving("no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class Streamed:
    """The answers of a PredictStream by number."""

    def __init__(self, answers: list[pb.PredictStreamResponse]) -> None:
        self.numbers = [each.request_number for each in answers]
        self.by_number = {each.request_number: each for each in answers}

    def scores(self, number: int) -> Any:
        answer = self.by_number[number]
        assert answer.WhichOneof("outcome") == "response", answer
        return unpacked(answer.response.probabilities)

    def failed(self, number: int) -> Failed:
        return from_status(self.by_number[number].error)


async def streamed(served: Aggregated, requests: list[pb.PredictStreamRequest]) -> Streamed:
    stream = served.stub.PredictStream(iter(requests), timeout=CALL_S)
    return Streamed([each async for each in stream])


def numbered(number: int, rows: Any, **fields: Any) -> pb.PredictStreamRequest:
    return pb.PredictStreamRequest(
        request_number=number, request=pb.PredictRequest(matrix=packed(rows)), **fields
    )


async def test_a_stream_answers_each_request_by_its_number(
    iris: Aggregated, truth: FloatRows
) -> None:
    rows = iris_rows()
    numbers = [2**64 - 1, *range(149)]
    asked = [numbered(number, rows[i : i + 1]) for i, number in enumerate(numbers)]
    answers = await streamed(iris, asked)
    assert sorted(answers.numbers) == sorted(numbers)
    for i, number in enumerate(numbers):
        assert np.array_equal(answers.scores(number), truth[i : i + 1])


async def test_a_wrong_request_leaves_the_stream_alone(iris: Aggregated, truth: FloatRows) -> None:
    rows = iris_rows()
    answers = await streamed(
        iris,
        [
            numbered(1, rows[:2]),
            numbered(2, [[1, 2, 3]]),
            pb.PredictStreamRequest(request_number=3),
            numbered(4, rows[:1], timeout={"seconds": -1}),
            numbered(5, rows[:1], timeout={"seconds": 2**62}),
            numbered(6, rows[2:3], timeout={"seconds": 315_576_000_000}),
            numbered(7, rows[3:4]),
        ],
    )
    assert sorted(answers.numbers) == [1, 2, 3, 4, 5, 6, 7]
    assert np.array_equal(answers.scores(1), truth[:2])
    assert np.array_equal(answers.scores(6), truth[2:3])
    assert np.array_equal(answers.scores(7), truth[3:4])
    assert answers.failed(2).fields == ["matrix.column_count"]
    assert answers.failed(3).fields == ["instances"]
    assert answers.failed(4).fields == ["timeout"]
    assert answers.failed(5).fields == ["timeout"]


async def test_every_violation_of_a_streamed_request_is_told_at_once(iris: Aggregated) -> None:
    wrong = numbered(1, [[1, 2, 3]], timeout={"seconds": 0})
    wrong.request.ensemble = "wine"
    answers = await streamed(iris, [wrong])
    assert sorted(answers.failed(1).fields) == ["ensemble", "matrix.column_count", "timeout"]


async def test_each_streamed_request_has_its_own_time() -> None:
    async def hangs_for_the_first(fake: FakePredictor, request: Any) -> bytes:
        return await (hangs if matrix(request)[0, 0] == 0.5 else scores)(fake, request)

    fake = FakePredictor()
    fake.otherwise = hangs_for_the_first
    answers: list[pb.PredictStreamResponse] = []
    async with before_fakes(fake) as served:

        async def requests() -> AsyncIterator[pb.PredictStreamRequest]:
            yield numbered(1, [[0.5, 0, 0]], timeout={"nanos": 50_000_000})
            # The second one must not travel with the first one, whose predictor hangs. On a busy
            # machine the first one may be late before it is sent.
            await eventually(lambda: bool(fake.requests or answers))
            yield numbered(2, [[0.25, 0, 0]], timeout={"seconds": 60})

        async for each in served.stub.PredictStream(requests(), timeout=60):
            answers.append(each)  # noqa: PERF401 the requests wait for the first one
    told = Streamed(answers)
    late = told.failed(1)
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "PREDICTORS_FAILED")
    assert told.scores(2).tolist() == [[0.25]]


async def test_the_deadline_of_the_stream_holds_for_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Eight of the caller's nine seconds are kept, so that the answer comes for sure.
    monkeypatch.setattr("aggregator.plan.RESERVE_SHARE", 0.9)
    monkeypatch.setattr("aggregator.plan.RESERVE_MOST_S", 8.0)
    fake = FakePredictor()
    fake.otherwise = hangs
    async with before_fakes(fake) as served:
        asked = [numbered(1, [[0.5, 0, 0]], timeout={"seconds": 100})]
        stream = served.stub.PredictStream(iter(asked), timeout=9)
        answer = await stream.read()
        assert from_status(answer.error).reason == "PREDICTORS_FAILED"


async def test_a_stream_is_held_back_when_much_is_in_flight() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(feature_count=4096)
    fake.otherwise = after(gate)
    sent: list[int] = []

    def requests() -> Iterator[pb.PredictStreamRequest]:
        for number in range(1000):
            sent.append(number)
            yield numbered(number, np.full((1, 4096), 0.5))

    async with before_fakes(fake) as served:
        # It keeps the predictor busy, so that everything else waits.
        first = asyncio.create_task(served.scores(np.full((1, 4096), 0.5)))
        await eventually(lambda: bool(fake.requests))
        stream = served.stub.PredictStream(requests(), timeout=60)
        await eventually(lambda: served.waiting_rows() == 64)
        # Until nothing moves any more.
        seen = -1
        while len(sent) != seen:
            seen = len(sent)
            for _ in range(50):
                await asyncio.sleep(0.001)
        assert served.waiting_rows() == 64
        assert seen < 1000
        gate.set()
        await first
        numbers = [each.request_number async for each in stream]
        assert sorted(numbers) == list(range(1000))
        await served.until_idle()


async def test_a_stream_that_sends_nonsense_ends_with_an_error() -> None:
    async with before_fakes(FakePredictor()) as served:
        call: Any = served.channel.stream_stream(f"/{SERVICE}/PredictStream")
        good = numbered(1, [[0.5, 0, 0]]).SerializeToString()

        async def ask() -> None:
            async for _ in call(iter([good, b"\xff\xff"]), timeout=CALL_S):
                pass

        assert (await refused(ask)).code == "INVALID_ARGUMENT"
        await served.until_idle()


async def test_a_drain_answers_what_a_stream_has_sent_and_then_says_so() -> None:
    gate = asyncio.Event()
    fake = FakePredictor()
    fake.otherwise = after(gate)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(before_fakes(fake))
        inner = await stack.enter_async_context(AsyncExitStack())
        served = await inner.enter_async_context(aggregating(fake.endpoint))
        channel = await stack.enter_async_context(aio.insecure_channel(served.aggregator.address))
        stream: Any = channel.stream_stream(
            f"/{SERVICE}/PredictStream",
            pb.PredictStreamRequest.SerializeToString,
            pb.PredictStreamResponse.FromString,
        )(timeout=CALL_S)
        await stream.write(numbered(1, [[0.5, 0, 0]]))
        await eventually(lambda: bool(fake.requests))
        closing = asyncio.ensure_future(inner.aclose())
        await eventually(lambda: not served.aggregator.health.is_serving())
        gate.set()
        answer = await stream.read()
        assert answer.request_number == 1
        assert unpacked(answer.response.probabilities).tolist() == [[0.5]]
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.read()
        await closing
    failed = next(v for k, v in caught.value.trailing_metadata() or () if "details" in k)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert b"DRAINING" in failed


async def test_a_call_in_flight_is_answered_while_the_server_drains() -> None:
    gate = asyncio.Event()
    fake = FakePredictor()
    fake.otherwise = after(gate)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(before_fakes(fake))
        inner = await stack.enter_async_context(AsyncExitStack())
        served = await inner.enter_async_context(aggregating(fake.endpoint))
        channel = await stack.enter_async_context(aio.insecure_channel(served.aggregator.address))
        predict: Any = channel.unary_unary(f"/{SERVICE}/Predict")
        request = pb.PredictRequest(matrix=packed([[0.5, 0, 0]])).SerializeToString()
        call = asyncio.ensure_future(predict(request, timeout=CALL_S))
        await eventually(lambda: bool(fake.requests))
        closing = asyncio.ensure_future(inner.aclose())
        await eventually(lambda: not served.aggregator.health.is_serving())
        gate.set()
        answer = pb.PredictResponse.FromString(await call)
        assert unpacked(answer.probabilities).tolist() == [[0.5]]
        await closing
