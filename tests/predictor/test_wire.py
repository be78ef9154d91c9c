"""What a predictor answers over a real socket, to callers that use the generated stubs."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictor.app import running_predictor
from predictor.config import PredictorConfig
from predictor.lifecycle import ModelStage
from predictor.model_service import MAX_CHUNK_BYTES
from predictor.stream import MAX_HELD
from tests import artifacts
from tests.artifacts import (
    iris_rows,
    reference_positive_probabilities,
    with_trillium_metadata,
)
from tests.predictor.endless import ENDLESS_ROWS, endless_on_demand
from tests.predictor.serving import (
    MODEL_SERVICE,
    PREDICTOR_SERVICE,
    SETOSA,
    LoadRequest,
    Request,
    Response,
    Served,
    by_name,
    digest_of,
    load,
    matrix_of,
    request_of,
    serving,
    streamed,
    upload,
    withdrawal,
)
from tests.predictor.test_onnx import nan_above
from tests.rpc.errors import Failure, failed, failure_of, refused, taken_apart
from tests.waiting import eventually
from trillium.model.declared import DeclaredFacts
from trillium.predictor.v1 import (
    model_service_pb2,
    predictor_service_pb2,
    predictor_service_pb2_grpc,
)
from trillium.rpc import uploads
from trillium.tensor.v1 import tensor_pb2

QUICK = artifacts.renamed_opset(13)
UNLOAD = model_service_pb2.UnloadModelRequest()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(QUICK) as served:
        yield served


def expected(artifact: bytes, number: int) -> bytes:
    """What `streamed(number)` must be answered with."""
    row = iris_rows()[number % 150 : number % 150 + 1]
    return bytes(reference_positive_probabilities(artifact, row, 1).tobytes())


async def test_predict_answers_what_onnx_runtime_answers(served: Served) -> None:
    answer = await served.predict.Predict(request_of(iris_rows()), timeout=60)
    reference = reference_positive_probabilities(QUICK, iris_rows(), 1)
    assert answer.probabilities == reference.tobytes()
    assert answer.model_digest == digest_of(QUICK)


async def test_predict_without_a_model_fails_with_the_reason() -> None:
    async with serving() as served:
        failure = await failed(served.predict.Predict(request_of(iris_rows()), timeout=60))
        assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "MODEL_NOT_LOADED")
        failure = await refused(
            lambda: served.predict.PredictStream(iter([streamed(1)]), timeout=60).read()
        )
        assert failure.reason == "MODEL_NOT_LOADED"


def matrix(rows: int, columns: int, data: bytes) -> tensor_pb2.Float32Matrix:
    return tensor_pb2.Float32Matrix(row_count=rows, column_count=columns, data=data)


NAN, INFINITY = float("nan"), float("inf")

BAD: dict[str, tuple[tensor_pb2.Float32Matrix, dict[str, str]]] = {
    "empty": (matrix(0, 0, b""), {"row_count": "at least 1 row", "column_count": "at least 1"}),
    "no rows": (matrix(0, 4, b""), {"row_count": "is 0; expected at least 1 row"}),
    "wrong width": (
        matrix(2, 3, bytes(24)),
        {"column_count": "is 3; the model has 4 features"},
    ),
    "too many rows": (matrix(101, 4, bytes(1616)), {"row_count": "is 101; at most 100"}),
    "too few bytes": (matrix(2, 4, bytes(31)), {"data": "has 31 bytes.* make 32"}),
    "absurd": (
        matrix(2**32 - 1, 2**32 - 1, b"x"),
        {"row_count": "at most 100", "column_count": "4 features", "data": "has 1 bytes"},
    ),
    "NaN": (
        matrix(2, 4, struct.pack("<8f", 1, 2, 3, 4, 5, 6, NAN, 8)),
        {"data": "row 1, column 2 is nan; finite"},
    ),
    "infinity": (
        matrix(1, 4, struct.pack("<4f", -INFINITY, 2, 3, 4)),
        {"data": "row 0, column 0 is -inf; finite"},
    ),
}


def is_told(failure: Failure, fields: dict[str, str]) -> None:
    """`failure` names exactly these fields of the matrix, each with such a description."""
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert failure.domain == "trillium"
    assert set(failure.fields) == {f"matrix.{name}" for name in fields}
    for name, pattern in fields.items():
        assert pytest.RaisesExc(Exception, match=pattern).matches(
            Exception(failure.fields[f"matrix.{name}"])
        ), failure.fields


async def test_each_bad_matrix_is_told_by_its_fields_unary_and_streamed() -> None:
    async with serving(QUICK, max_rows=100) as served:
        metadata = (("x-request-id", "iris-7"),)
        for bad, fields in BAD.values():
            request = predictor_service_pb2.PredictRequest(matrix=bad)
            call = served.predict.Predict(request, timeout=60, metadata=metadata)
            failure = await failed(call)
            is_told(failure, fields)
            assert failure.request_id == "iris-7"
        requests = [
            Request(request_number=number, matrix=bad, request_ids=["iris-8", "iris-9"])
            for number, (bad, _) in enumerate(BAD.values())
        ]
        requests.append(streamed(99))
        answers = [each async for each in served.predict.PredictStream(iter(requests), timeout=60)]
        for answer, (_, fields) in zip(answers, BAD.values(), strict=False):
            failure = taken_apart(answer.error)
            is_told(failure, fields)
            assert failure.request_id == "iris-8"
        assert [answer.request_number for answer in answers] == [*range(len(BAD)), 99]
        assert answers[-1].probabilities == expected(QUICK, 99)


async def test_all_odd_values_are_told_up_to_a_limit(served: Served) -> None:
    call = served.predict.Predict(request_of(np.full((1000, 4), NAN, np.float32)), timeout=60)
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    failure = failure_of(caught.value)
    assert failure.reason == "INVALID_REQUEST"
    assert "row 0, column 0 is nan" in failure.message
    assert failure.message.endswith("and 17 more")


async def test_message_over_the_limit_is_told_by_its_size() -> None:
    async with serving(QUICK, max_message_bytes=2048) as served:
        failure = await failed(served.predict.Predict(request_of(iris_rows()), timeout=60))
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert set(failure.fields) == {"message"}
        assert "at most 2048 allowed" in failure.fields["message"]
        far_too_large = request_of(np.ones((1000, 4), np.float32))
        assert (await failed(served.predict.Predict(far_too_large, timeout=60))).code == (
            "RESOURCE_EXHAUSTED"
        )
        assert (await served.scores(iris_rows()[:5])).shape == (5,)


@pytest.mark.parametrize("raw", [b"\x0a\xff", b"\xff" * 20, b"\x07", b"\x0a\x02\x08"])
async def test_bytes_that_are_no_message_are_told(served: Served, raw: bytes) -> None:
    unary: Any = served.channel.unary_unary(f"/{PREDICTOR_SERVICE}/Predict")
    failure = await failed(unary(raw, timeout=60))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
    assert "trillium.predictor.v1.PredictRequest" in failure.message
    both: Any = served.channel.stream_stream(f"/{PREDICTOR_SERVICE}/PredictStream")

    async def sound_then_raw() -> None:
        call = both(iter([streamed(3).SerializeToString(), raw]), timeout=60)
        first = Response.FromString(await call.read())
        assert first.probabilities == expected(QUICK, 3)
        await call.read()

    failure = await refused(sound_then_raw)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
    upload_call: Any = served.channel.stream_unary(f"/{MODEL_SERVICE}/LoadModel")
    failure = await refused(lambda: upload_call(iter([raw]), timeout=60))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


@pytest.mark.parametrize("path", [f"/{PREDICTOR_SERVICE}/Guess", "/nobody.v1.Nothing/Do"])
async def test_unknown_method_is_unimplemented(served: Served, path: str) -> None:
    unary: Any = served.channel.unary_unary(path)
    assert (await failed(unary(b"", timeout=60))).code == "UNIMPLEMENTED"


async def test_answer_that_is_no_probability_is_no_answer() -> None:
    async with serving(nan_above(1000.0)) as served:
        rows = iris_rows()[:2].copy()
        rows[1, 0] = 2000
        failure = await failed(served.predict.Predict(request_of(rows), timeout=60))
        assert (failure.code, failure.reason) == ("INTERNAL", "MODEL_FAILED")
        assert (await served.scores(iris_rows()[:2])).shape == (2,)


async def test_time_that_is_up_is_told_and_the_run_is_stopped() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.Predict(request_of(ENDLESS_ROWS), timeout=0.2)
        assert (await failed(call)).code == "DEADLINE_EXCEEDED"
        await eventually(lambda: served.host.in_flight == 0)


async def test_health_answers_while_a_slow_model_runs() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.Predict(request_of(ENDLESS_ROWS), timeout=60)
        await eventually(lambda: served.host.in_flight == 1)
        assert await served.status() == "SERVING"
        assert (await served.get()).in_flight_count == 1
        call.cancel()
        await eventually(lambda: served.host.in_flight == 0)


# --- streams


async def test_stream_answers_each_request_in_order_with_its_number(served: Served) -> None:
    numbers = [0, 2**64 - 1, *range(5, 1000)]
    call = served.predict.PredictStream(iter([streamed(number) for number in numbers]), timeout=60)
    answers = [answer async for answer in call]
    assert [answer.request_number for answer in answers] == numbers
    for answer in answers[::50]:
        assert answer.probabilities == expected(QUICK, answer.request_number)
    await eventually(lambda: served.host.in_flight == 0)


async def test_streams_do_not_mix_up_their_rows(served: Served) -> None:
    async def ask(offset: int) -> None:
        requests = [streamed(number) for number in range(offset, offset + 150)]
        call = served.predict.PredictStream(iter(requests), timeout=60)
        async for answer in call:
            row = answer.request_number % 150
            assert answer.probabilities == by_row[row].tobytes()

    by_row = reference_positive_probabilities(QUICK, iris_rows(), 1)
    async with asyncio.TaskGroup() as group:
        for offset in range(0, 800, 100):
            group.create_task(ask(offset))


async def test_more_requests_than_are_held_are_all_answered() -> None:
    count = 5 * MAX_HELD
    async with serving(endless_on_demand()) as served:
        call = served.predict.PredictStream(timeout=60)
        await call.write(streamed(0, ENDLESS_ROWS))
        writing = asyncio.create_task(write_all(call, (streamed(n) for n in range(1, count))))
        await eventually(lambda: served.host.in_flight >= MAX_HELD)
        held = served.host.in_flight
        assert held <= MAX_HELD + 2
        # No withdrawal is heard while so much waits; another caller's health check is.
        assert await served.status() == "SERVING"
        call.cancel()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await eventually(lambda: served.host.in_flight == 0)
    async with serving(QUICK) as served:
        call = served.predict.PredictStream(timeout=60)
        writing = asyncio.create_task(write_all(call, (streamed(n) for n in range(count))))
        answers = [answer.request_number async for answer in call]
        await writing
        assert answers == list(range(count))


async def answer_of(call: Any) -> Response:
    """The next answer of a stream, which must not be at its end."""
    answer = await call.read()
    assert isinstance(answer, Response)
    return answer


async def write_all(call: Any, requests: Iterable[Request]) -> None:
    for request in requests:
        await call.write(request)
    await call.done_writing()


async def test_request_with_nothing_to_do_is_told_so_and_the_stream_goes_on(served: Served) -> None:
    requests = [Request(request_number=1), streamed(2)]
    first, second = [
        each async for each in served.predict.PredictStream(iter(requests), timeout=60)
    ]
    assert taken_apart(first.error).reason == "INVALID_REQUEST"
    assert second.probabilities == expected(QUICK, 2)


async def test_streamed_answer_that_is_no_probability_is_left_to_the_reader() -> None:
    async with serving(nan_above(1000.0)) as served:
        rows = iris_rows()[:2].copy()
        rows[1, 0] = 2000
        call = served.predict.PredictStream(iter([streamed(1, rows), streamed(2)]), timeout=60)
        first, second = [answer async for answer in call]
        assert np.isnan(np.frombuffer(first.probabilities, "<f4")).tolist() == [False, True]
        assert second.WhichOneof("outcome") == "probabilities"


async def test_request_is_withdrawn_while_it_runs_and_before() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.PredictStream(timeout=60)
        for request in (streamed(1, ENDLESS_ROWS), streamed(2, ENDLESS_ROWS), streamed(3)):
            await call.write(request)
        await eventually(lambda: served.host.in_flight == 3)
        await call.write(withdrawal(2))
        await call.write(withdrawal(77))
        await call.write(withdrawal(1))
        await call.write(withdrawal(1))
        await call.done_writing()
        first, second, third = [answer async for answer in call]
        for number, answer in ((1, first), (2, second)):
            failure = taken_apart(answer.error)
            assert answer.request_number == number
            assert (failure.code, failure.reason) == ("CANCELLED", "CANCELLED")
        assert third.probabilities == expected(QUICK, 3)
        await eventually(lambda: served.host.in_flight == 0)


async def test_withdrawal_of_an_answered_request_does_not_touch_a_later_one_of_that_number(
    served: Served,
) -> None:
    call = served.predict.PredictStream(timeout=60)
    for _ in range(3):
        await call.write(streamed(1))
        assert (await answer_of(call)).probabilities == expected(QUICK, 1)
        await call.write(withdrawal(1))
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_request_whose_time_ran_out_in_the_queue_never_runs() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.PredictStream(timeout=60)
        await call.write(streamed(1, ENDLESS_ROWS))
        await call.write(streamed(2, ENDLESS_ROWS, timeout_us=1))
        await call.write(streamed(3, timeout_us=60_000_000))
        await eventually(lambda: served.host.in_flight == 3)
        await call.write(withdrawal(1))
        await call.done_writing()
        _, late, in_time = [answer async for answer in call]
        failure = taken_apart(late.error)
        assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert in_time.probabilities == expected(QUICK, 3)


async def test_caller_that_goes_away_leaves_nothing_behind() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.PredictStream(timeout=60)
        await call.write(streamed(1, ENDLESS_ROWS))
        await call.write(streamed(2, ENDLESS_ROWS))
        await eventually(lambda: served.host.in_flight == 2)
        call.cancel()
        await eventually(lambda: served.host.in_flight == 0)
        await served.model.UnloadModel(UNLOAD, timeout=60)


async def test_caller_that_never_reads_and_goes_away_leaves_nothing_behind() -> None:
    rows = np.tile(iris_rows(), (400, 1))
    async with serving(QUICK) as served:
        call = served.predict.PredictStream(timeout=60)
        writing = asyncio.create_task(write_all(call, (streamed(n, rows) for n in range(200))))
        await eventually(lambda: served.host.in_flight >= MAX_HELD)
        call.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await eventually(lambda: served.host.in_flight == 0)


async def test_stream_of_a_replaced_model_answers_what_it_took_and_ends_well() -> None:
    async with serving(endless_on_demand()) as served:
        call = served.predict.PredictStream(timeout=60)
        for request in (streamed(1, ENDLESS_ROWS), streamed(2), streamed(3)):
            await call.write(request)
        await eventually(lambda: served.host.in_flight == 3)
        await load(served.host, artifacts.two_column_tensor())
        assert (await served.get()).in_flight_count == 3
        await call.write(withdrawal(1))
        answers = [answer async for answer in call]
        assert [answer.request_number for answer in answers] == [1, 2, 3]
        assert answers[2].probabilities == expected(QUICK, 3)
        assert (await call.code()).name == "OK"
        fresh = served.predict.PredictStream(iter([streamed(4)]), timeout=60)
        assert (await answer_of(fresh)).probabilities == expected(artifacts.two_column_tensor(), 4)


async def test_idle_stream_ends_well_when_the_model_is_unloaded(served: Served) -> None:
    call = served.predict.PredictStream(timeout=60)
    await call.write(streamed(1))
    await call.read()
    gone = await served.model.UnloadModel(UNLOAD, timeout=60)
    assert gone.digest == digest_of(QUICK)
    assert await call.read() is aio.EOF
    assert (await call.code()).name == "OK"


# --- LoadModel, UnloadModel, GetModel


async def test_model_is_loaded_in_chunks_and_told() -> None:
    artifact = with_trillium_metadata(
        artifacts.two_column_tensor(),
        ensemble="iris",
        class_labels='["setosa", "versicolor"]',
        feature_names='["a", "b", "c", "d"]',
        sample="[5.5, 2, 3, 4]",
        accuracy="0.97",
    )
    async with serving() as served:
        assert (await served.status(), (await served.get()).state) == (
            "NOT_SERVING",
            model_service_pb2.MODEL_STATE_EMPTY,
        )
        assert not (await served.get()).HasField("model")
        answer = await served.model.LoadModel(upload(artifact, 100, name="iris-setosa"), timeout=60)
        assert answer.model == model_service_pb2.Model(
            name="iris-setosa",
            digest=digest_of(artifact),
            ensemble="iris",
            class_label="setosa",
            feature_count=4,
            feature_names=["a", "b", "c", "d"],
            sample=[5.5, 2, 3, 4],
            ensemble_class_labels=["setosa", "versicolor"],
            input_dtype="FP32",
            size_bytes=len(artifact),
            metadata={"accuracy": "0.97"},
        )
        told = await served.get()
        assert told.model == answer.model
        assert told.state == model_service_pb2.MODEL_STATE_READY
        assert told.state_time.seconds > 1_700_000_000
        assert await served.status() == await served.status(PREDICTOR_SERVICE) == "SERVING"
        rows = iris_rows()
        reference = reference_positive_probabilities(artifact, rows, 1)
        assert (await served.scores(rows)).tobytes() == reference.tobytes()


def changed(messages: Iterable[Any], *extra: Any, skip: int = 0) -> list[Any]:
    return [*list(messages)[skip:], *extra]


HEADER = next(upload(QUICK))

BAD_UPLOADS: dict[str, tuple[list[Any], str, set[str]]] = {
    "nothing": ([], "INVALID_REQUEST", {"header"}),
    "empty message": ([LoadRequest()], "INVALID_REQUEST", {"header"}),
    "chunk first": (changed(upload(QUICK), skip=1), "INVALID_REQUEST", {"header"}),
    "two headers": ([HEADER, HEADER], "INVALID_REQUEST", {"header"}),
    "second header late": (changed(upload(QUICK), HEADER), "INVALID_REQUEST", {"header"}),
    "part without content": ([HEADER, LoadRequest()], "INVALID_REQUEST", {"chunk"}),
    "too short": (changed(upload(QUICK, 100))[:-1], "INVALID_REQUEST", {"header.size_bytes"}),
    "too long": (
        changed(upload(QUICK), LoadRequest(chunk=b"x")),
        "INVALID_REQUEST",
        {"header.size_bytes"},
    ),
    "too large": (
        changed(upload(QUICK, size_bytes=2**40)),
        "INVALID_REQUEST",
        {"header.size_bytes"},
    ),
    "large chunk": (
        [HEADER, LoadRequest(chunk=bytes(MAX_CHUNK_BYTES + 1))],
        "INVALID_REQUEST",
        {"chunk"},
    ),
    "other content": (changed(upload(QUICK, sha256="0" * 64)), "DIGEST_MISMATCH", set()),
    "path for a name": (changed(upload(QUICK, name="../x")), "INVALID_REQUEST", {"header.name"}),
    "all wrong at once": (
        changed(upload(QUICK, name="", sha256="XY", size_bytes=0, positive_column=2)),
        "INVALID_REQUEST",
        {"header.name", "header.sha256", "header.size_bytes", "header.positive_column"},
    ),
    "facts that are none": (
        changed(
            upload(
                QUICK,
                ensemble_class_labels=["setosa", "setosa"],
                feature_names=["a", ""],
                sample=[1.0, float("inf")],
            )
        ),
        "INVALID_REQUEST",
        {"header.ensemble_class_labels", "header.feature_names", "header.sample"},
    ),
    "facts that do not fit": (changed(upload(QUICK, sample=[1.0])), "MODEL_REJECTED", set()),
    "a class of another ensemble": (
        changed(upload(QUICK, ensemble_class_labels=["rose", "lily"])),
        "MODEL_REJECTED",
        set(),
    ),
    "no classifier": (changed(upload(artifacts.three_classes())), "MODEL_REJECTED", set()),
    "no ONNX": (changed(upload(artifacts.not_onnx())), "MODEL_REJECTED", set()),
    "an immense class": (
        changed(
            upload(
                with_trillium_metadata(QUICK, class_labels='["a", "b"]'), class_label="x" * 10**6
            )
        ),
        "MODEL_REJECTED",
        set(),
    ),
    "by a name, where nothing is read": (
        [by_name("x")],
        "MODEL_NOT_FOUND",
        set(),
    ),
}


async def _sent(served: Served, messages: list[Any]) -> Any:
    return await served.model.LoadModel(iter(messages), timeout=60)


async def test_each_bad_upload_is_told_and_changes_nothing(served: Served) -> None:
    for name, (messages, reason, fields) in BAD_UPLOADS.items():
        failure = await refused(partial(_sent, served, messages))
        assert (failure.reason, set(failure.fields)) == (reason, fields), name
        assert failure.code == ("NOT_FOUND" if "NOT_FOUND" in reason else "INVALID_ARGUMENT")
        assert failure.domain == "trillium"
    assert served.host.state is ModelStage.READY
    assert served.host.in_flight == 0
    assert (await served.get()).model.digest == digest_of(QUICK)
    assert (await served.scores(iris_rows()[:1])).tobytes() == expected(QUICK, 0)


async def test_upload_that_breaks_off_changes_nothing(served: Served) -> None:
    call = served.model.LoadModel(timeout=60)
    messages = list(upload(artifacts.large(1)))
    for message in messages[: len(messages) // 2]:
        await call.write(message)
    call.cancel()
    async with aio.insecure_channel(served.predictor.address) as gone:
        load_model: Any = gone.stream_unary(
            f"/{MODEL_SERVICE}/LoadModel", request_serializer=LoadRequest.SerializeToString
        )
        unfinished = load_model(timeout=60)
        await unfinished.write(messages[0])
    assert served.host.state is ModelStage.READY
    assert (await served.scores(iris_rows()[:1])).tobytes() == expected(QUICK, 0)
    answer = await served.model.LoadModel(upload(artifacts.two_column_tensor()), timeout=60)
    assert answer.model.digest == digest_of(artifacts.two_column_tensor())


async def test_an_upload_that_does_not_begin_is_over_after_a_while(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SILENCE_S", 0.05)
    failure = await failed(served.model.LoadModel(timeout=60))
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert "did not go on" in failure.message
    assert (await served.get()).model.digest == digest_of(QUICK)


async def test_load_that_its_caller_gives_up_leaves_the_model_and_room_for_the_next(
    served: Served,
) -> None:
    call = served.model.LoadModel(upload(artifacts.slow(60_000)), timeout=60)
    await eventually(lambda: served.host.state is ModelStage.REPLACING)
    assert (await served.get()).state == model_service_pb2.MODEL_STATE_READY
    other = artifacts.odd_names()
    busy = await refused(lambda: served.model.LoadModel(upload(other), timeout=60))
    assert (busy.code, busy.reason) == ("ABORTED", "MODEL_BUSY")
    busy = await failed(served.model.UnloadModel(UNLOAD, timeout=60))
    assert (busy.code, busy.reason) == ("ABORTED", "MODEL_BUSY")
    call.cancel()
    await eventually(lambda: served.host.state is ModelStage.READY)
    assert (await served.get()).model.digest == digest_of(QUICK)
    await served.model.LoadModel(upload(other), timeout=60)


async def test_state_is_loading_until_the_first_model_is_warm() -> None:
    async with serving() as served:
        call = served.model.LoadModel(upload(artifacts.slow(60_000)), timeout=60)
        await eventually(lambda: served.host.state is ModelStage.LOADING)
        told = await served.get()
        assert told.state == model_service_pb2.MODEL_STATE_LOADING
        assert not told.HasField("model")
        assert await served.status() == "NOT_SERVING"
        assert await served.status(MODEL_SERVICE) == "SERVING"
        failure = await failed(served.predict.Predict(request_of(iris_rows()), timeout=60))
        assert failure.reason == "MODEL_NOT_LOADED"
        call.cancel()
        await eventually(lambda: served.host.state is ModelStage.EMPTY)


async def test_same_upload_again_succeeds_and_keeps_open_streams(served: Served) -> None:
    first = await served.model.LoadModel(upload(QUICK), timeout=60)
    stream = served.predict.PredictStream(timeout=60)
    await stream.write(streamed(1))
    await stream.read()
    assert await served.model.LoadModel(upload(QUICK), timeout=60) == first
    await stream.write(streamed(2))
    assert (await answer_of(stream)).probabilities == expected(QUICK, 2)
    stream.cancel()


async def test_a_call_that_was_overtaken_is_refused_and_changes_nothing() -> None:
    async with serving() as served:
        unload = model_service_pb2.UnloadModelRequest
        assert (await served.get()).fence == 0
        await served.model.LoadModel(upload(QUICK, fence=5), timeout=60)
        await served.model.LoadModel(upload(QUICK, fence=5), timeout=60)
        for late in (
            lambda: served.model.LoadModel(upload(QUICK, fence=4), timeout=60),
            lambda: served.model.LoadModel(upload(QUICK, fence=4, name="other"), timeout=60),
            lambda: served.model.UnloadModel(unload(fence=4), timeout=60),
        ):
            failure = await refused(late)
            assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "OVERTAKEN")
            assert failure.message == "fence is 4; expected at least 5, which came before"
        told = await served.get()
        assert (told.model.name, told.fence) == ("setosa", 5)
        # Who says nothing of a fence is always heard, and so is whoever comes later.
        await served.model.UnloadModel(unload(), timeout=60)
        assert (await served.get()).fence == 5
        await served.model.UnloadModel(unload(fence=7), timeout=60)
        failure = await refused(lambda: served.model.LoadModel(upload(QUICK, fence=6), timeout=60))
        assert failure.reason == "OVERTAKEN"
        assert (await served.get()).state == model_service_pb2.MODEL_STATE_EMPTY
        await served.model.LoadModel(upload(QUICK), timeout=60)
        assert (await served.get()).fence == 7


async def test_a_load_that_is_refused_or_busy_for_others_overtakes_as_far_as_it_came() -> None:
    async with serving() as served:
        failure = await refused(
            lambda: served.model.LoadModel(upload(b"no model", fence=3), timeout=60)
        )
        assert failure.reason == "MODEL_REJECTED"
        assert (await served.get()).fence == 3
        busy = served.model.LoadModel(upload(artifacts.slow(60_000), fence=4), timeout=60)
        await eventually(lambda: served.host.state is ModelStage.LOADING)
        failure = await refused(lambda: served.model.LoadModel(upload(QUICK, fence=5), timeout=60))
        assert failure.reason == "MODEL_BUSY"
        assert (await served.get()).fence == 4, "it was not carried out"
        busy.cancel()
        await eventually(lambda: served.host.state is ModelStage.EMPTY)


async def test_model_is_loaded_by_name_with_the_file_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    artifact = artifacts.opset9_svm_zipmap()
    (folder / "svm.v1.onnx").write_bytes(artifact)
    (folder / "svm.v1.json").write_text('{"class_label": "setosa", "positive_column": 1}')
    (tmp_path / "secret.onnx").write_bytes(QUICK)
    async with serving(models_dir=folder) as served:

        async def load_named(name: str, **header: Any) -> Any:
            return await served.model.LoadModel(iter([by_name(name, **header)]), timeout=60)

        for name in ("../secret", "/etc/passwd", "..", str(tmp_path / "secret")):
            failure = await refused(partial(load_named, name))
            assert (failure.reason, set(failure.fields)) == ("INVALID_REQUEST", {"header.name"})
        failure = await refused(partial(load_named, "secret"))
        assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "available: svm.v1" in failure.message
        assert str(tmp_path) not in failure.message
        failure = await refused(partial(load_named, "svm.v1", sha256="0" * 64))
        assert failure.reason == "DIGEST_MISMATCH"
        answer = await load_named("svm.v1", sha256=digest_of(artifact))
        assert (answer.model.class_label, answer.model.name) == ("setosa", "svm.v1")
        reference = reference_positive_probabilities(artifact, iris_rows(), 1)
        assert (await served.scores(iris_rows())).tobytes() == reference.tobytes()
        told = await load_named("svm.v1", class_label="rest", positive_column=0)
        assert told.model.class_label == "rest"
        reference = reference_positive_probabilities(artifact, iris_rows(), 0)
        assert (await served.scores(iris_rows())).tobytes() == reference.tobytes()


async def test_what_the_header_says_is_told_as_if_it_stood_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "setosa.onnx"
    path.write_bytes(QUICK)
    facts: dict[str, Any] = {
        "class_label": "setosa",
        "positive_column": 1,
        "ensemble": "flowers",
        "feature_names": ["a", "b", "c", "d"],
        "sample": [5.1, 3.5, 1.4, 0.2],
    }
    labels = ["setosa", "rose"]
    path.with_suffix(".json").write_text(json.dumps({**facts, "class_labels": labels}))
    async with serving(model=path) as served:
        beside = (await served.get()).model
    assert (beside.ensemble, len(beside.sample)) == ("flowers", 4)
    async with serving() as served:
        sent = upload(QUICK, ensemble_class_labels=labels, **facts)
        answer = await served.model.LoadModel(sent, timeout=60)
        assert answer.model == (await served.get()).model == beside


async def test_config_s_model_is_served_from_the_start_and_the_person_wins(tmp_path: Path) -> None:
    path = tmp_path / "third.onnx"
    path.write_bytes(with_trillium_metadata(artifacts.two_column_tensor(), class_label="metadata"))
    beside = {"class_label": "beside", "positive_column": 0, "sample": [1, 2, 3, 4]}
    path.with_suffix(".json").write_text(json.dumps(beside))
    said = DeclaredFacts(class_label="person")
    async with serving(model=path) as served:
        assert (await served.get()).model.class_label == "beside"
        reference = reference_positive_probabilities(path.read_bytes(), iris_rows(), 0)
        assert (await served.scores(iris_rows())).tobytes() == reference.tobytes()
    config = PredictorConfig(listen="127.0.0.1:0", model=path, declared=said)
    async with running_predictor(config) as predictor:
        description = predictor.host.description
        assert description is not None
        assert description.class_label == "person"
        assert description.sample == (1, 2, 3, 4)
        assert description.name == "third"


async def test_unload_finishes_what_is_in_flight_and_refuses_the_rest() -> None:
    async with serving(endless_on_demand()) as served:
        stream = served.predict.PredictStream(timeout=60)
        await stream.write(streamed(1, ENDLESS_ROWS))
        await stream.write(streamed(2))
        await eventually(lambda: served.host.in_flight == 2)
        unload = asyncio.ensure_future(served.model.UnloadModel(UNLOAD, timeout=60))
        await eventually(lambda: served.host.state is ModelStage.UNLOADING)
        told = await served.get()
        assert told.state == model_service_pb2.MODEL_STATE_UNLOADING
        assert told.in_flight_count == 2
        assert told.model.digest == digest_of(endless_on_demand())
        assert await served.status() == "NOT_SERVING"
        failure = await failed(served.predict.Predict(request_of(iris_rows()), timeout=60))
        assert failure.reason == "MODEL_NOT_LOADED"
        assert not unload.done()
        await stream.write(withdrawal(1))
        answers = [answer async for answer in stream]
        assert [answer.request_number for answer in answers] == [1, 2]
        assert answers[1].probabilities == expected(QUICK, 2)
        assert (await unload).digest == digest_of(endless_on_demand())
        assert (await served.get()).state == model_service_pb2.MODEL_STATE_EMPTY
        assert (await served.model.UnloadModel(UNLOAD, timeout=60)).digest == ""


async def test_stop_answers_what_is_in_flight_and_ends_streams() -> None:
    async with AsyncExitStack() as callers:
        async with serving(endless_on_demand(), drain_s=30.0) as served:
            address = served.predictor.address
            channel = await callers.enter_async_context(aio.insecure_channel(address))
            predict = predictor_service_pb2_grpc.PredictorServiceStub(channel)
            stream = predict.PredictStream(timeout=60)
            for request in (streamed(0, ENDLESS_ROWS), streamed(1), streamed(2)):
                await stream.write(request)
            watch = aiter(
                health_pb2_grpc.HealthStub(channel).Watch(
                    health_pb2.HealthCheckRequest(), timeout=60
                )
            )
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
            call = predict.Predict(request_of(iris_rows()), timeout=60)
            await eventually(lambda: served.host.in_flight == 4)

            async def withdraw_when_told() -> None:
                status = (await anext(watch)).status
                assert status == health_pb2.HealthCheckResponse.NOT_SERVING
                await stream.write(withdrawal(0))

            withdrawing = asyncio.create_task(withdraw_when_told())
        await withdrawing
        assert [answer.request_number async for answer in stream] == [0, 1, 2]
        assert await anext(watch, None) is None
        reference = reference_positive_probabilities(QUICK, iris_rows(), 1)
        assert (await call).probabilities == reference.tobytes()
        assert (await failed(predict.Predict(request_of(iris_rows()), timeout=60))).code == (
            "UNAVAILABLE"
        )


def test_matrix_of_travels_as_the_proto_says() -> None:
    message = matrix_of(iris_rows())
    assert (message.row_count, message.column_count, len(message.data)) == (150, 4, 2400)
    assert SETOSA.positive_column == 1
