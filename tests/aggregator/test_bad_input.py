"""Requests that cannot be served: each is refused with what is wrong, and nothing else suffers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.aggregator.fakes import FakePredictor
from tests.aggregator.serving import (
    CALL_S,
    IRIS,
    SERVICE,
    Aggregated,
    Failed,
    before_fakes,
    failure_of,
    instances,
    packed,
    reference,
    unpacked,
    whole_ensemble,
)
from tests.artifacts import iris_rows
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.tensor.v1 import tensor_pb2
from trillium.violations import MAX_VIOLATIONS

NAN, INF = math.nan, math.inf
MISSING = "nan; finite values only: this model takes no missing values"


@pytest.fixture
async def served() -> AsyncIterator[Aggregated]:
    """Three classes, rows of three features, at most five rows and 1 MiB."""
    fakes = [FakePredictor(label, column=column) for column, label in enumerate("abc")]
    async with before_fakes(*fakes, max_rows=5, max_message_bytes=2**20) as aggregated:
        yield aggregated
        assert (await aggregated.scores([[0.5, 0.25, 1]])).tolist() == [[0.5, 0.25, 1]]
        await aggregated.until_idle()


def matrix(row_count: int, column_count: int, size: int) -> dict[str, Any]:
    return {
        "matrix": tensor_pb2.Float32Matrix(
            row_count=row_count, column_count=column_count, data=bytes(size)
        )
    }


CASES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"instances": "is empty; expected at least 1 row"}),
    (
        {"instances": instances([[1, 2]])},
        {"instances[0].features": "row 0 has 2 features; expected 3"},
    ),
    (
        {"instances": [*instances([[1, 2, 3]]), pb.Instance(), *instances([[1, 2, 3, 4]])]},
        {
            "instances[1].features": "row 1 has 0 features; expected 3",
            "instances[2].features": "row 2 has 4 features; expected 3",
        },
    ),
    (
        {"instances": instances([[1, NAN, 3], [INF, 2, -INF]])},
        {
            "instances[0].features[1]": f"row 0, feature 1 is {MISSING}",
            "instances[1].features[0]": "row 1, feature 0 is inf; finite values only",
            "instances[1].features[2]": "row 1, feature 2 is -inf; finite values only",
        },
    ),
    (
        {"instances": [*instances([[NAN, 2, 3]]), *instances([[1]])]},
        {
            "instances[0].features[0]": f"row 0, feature 0 is {MISSING}",
            "instances[1].features": "row 1 has 1 features; expected 3",
        },
    ),
    (
        {"instances": instances([[1, 2, 3]] * 6)},
        {"instances": "has 6 rows; at most 5 allowed"},
    ),
    (
        matrix(0, 3, 0),
        {"matrix.row_count": "is 0; expected at least 1 row"},
    ),
    (
        matrix(6, 3, 72),
        {"matrix.row_count": "is 6; at most 5 allowed"},
    ),
    (
        matrix(1, 2, 8),
        {"matrix.column_count": "is 2; the model has 3 features"},
    ),
    (
        matrix(1, 3, 11),
        {"matrix.data": "has 11 bytes; row_count 1 * column_count 3 * 4 bytes make 12"},
    ),
    (
        matrix(2**32 - 1, 2**32 - 1, 5),
        {
            "matrix.row_count": "is 4294967295; at most 5 allowed",
            "matrix.column_count": "is 4294967295; the model has 3 features",
            "matrix.data": "has 5 bytes; row_count 4294967295 * column_count 4294967295 * 4 bytes"
            " make 73786976260478468100",
        },
    ),
    (
        {"matrix": packed([[1.0, 2, 3], [4, NAN, 6]])},
        {"matrix.data": f"row 1, column 1 is {MISSING}"},
    ),
    (
        {"matrix": packed([[1, 2, 3]]), "instances": instances([[1, 2, 3]])},
        {"matrix": "cannot be combined with instances; send one"},
    ),
    (
        {"matrix": packed([[1, 2, 3]]), "ensemble": "wine"},
        {"ensemble": "is 'wine'; this aggregator serves 'fake'"},
    ),
]
OF_CLASSES: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        {"matrix": packed([[1, 2, 3]]), "class_labels": ["a", "x", "a", ""]},
        {
            "class_labels[1]": "is 'x'; known classes: a, b, c",
            "class_labels[2]": "is 'a' again; each class at most once",
            "class_labels[3]": "is ''; known classes: a, b, c",
        },
    ),
    (
        {"matrix": packed([[NAN, 2]]), "class_labels": ["x"], "ensemble": "wine"},
        {
            "class_labels[0]": "is 'x'; known classes: a, b, c",
            "ensemble": "is 'wine'; this aggregator serves 'fake'",
            "matrix.column_count": "is 2; the model has 3 features",
        },
    ),
]


def refused(failed: Failed) -> Failed:
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "INVALID_REQUEST"
    return failed


@pytest.mark.parametrize(("fields", "violations"), [*CASES, *OF_CLASSES])
async def test_predict_names_every_field_and_row_that_is_wrong(
    served: Aggregated, fields: dict[str, Any], violations: dict[str, str]
) -> None:
    failed = await failure_of(served.stub.Predict(pb.PredictRequest(**fields), timeout=CALL_S))
    assert refused(failed).violations == violations


@pytest.mark.parametrize(("fields", "violations"), CASES)
async def test_classify_names_every_field_and_row_that_is_wrong(
    served: Aggregated, fields: dict[str, Any], violations: dict[str, str]
) -> None:
    failed = await failure_of(served.stub.Classify(pb.ClassifyRequest(**fields), timeout=CALL_S))
    assert refused(failed).violations == violations


async def test_the_most_telling_violations_are_named_and_no_more(served: Aggregated) -> None:
    wrong = pb.PredictRequest(
        instances=[pb.Instance(features=[NAN] * 100)] * 5, class_labels=["x"] * 100
    )
    failed = refused(await failure_of(served.stub.Predict(wrong, timeout=CALL_S)))
    assert len(failed.fields) == MAX_VIOLATIONS
    assert failed.message.endswith(f"and {MAX_VIOLATIONS - 3} more")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x" * 10_000, id="long"),
        pytest.param("\N{SLICE OF PIZZA}" * 100, id="emoji"),
        pytest.param("\U000e0001" * 100, id="not printable"),
        pytest.param("\n\t\0" * 100, id="control"),
        pytest.param("\N{LATIN SMALL LETTER E WITH ACUTE}" * 99, id="accents"),
    ],
)
async def test_names_of_any_kind_are_told_in_an_error_that_arrives(
    served: Aggregated, name: str
) -> None:
    wrong = pb.PredictRequest(
        matrix=packed([[NAN, 1, 2]] * 5), ensemble=name, class_labels=[name] * 30
    )
    failed = refused(await failure_of(served.stub.Predict(wrong, timeout=CALL_S)))
    assert failed.fields[0] == "ensemble"
    assert failed.fields[1:] == [f"class_labels[{index}]" for index in range(MAX_VIOLATIONS - 1)]


async def test_a_message_over_the_limit_is_refused_with_its_size(served: Aggregated) -> None:
    failed = refused(await failure_of(served.predict(np.zeros((2**20 // 12 + 10, 3)))))
    (field,) = failed.fields
    assert field == "message"
    assert "at most 1048576 allowed" in failed.violations["message"]


async def test_a_message_far_over_the_limit_is_not_even_read(served: Aggregated) -> None:
    with pytest.raises(aio.AioRpcError, match="larger than max") as caught:
        await served.predict(np.zeros((3 * 2**20 // 12, 3)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_is_no_message_is_refused(served: Aggregated) -> None:
    for method in ("Predict", "Classify", "PredictSample", "GetMetadata", "ListPredictors"):
        call: Any = served.channel.unary_unary(f"/{SERVICE}/{method}")
        failed = await failure_of(call(b"\xff\xff\xff", timeout=CALL_S))
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failed.reason == "MALFORMED_MESSAGE"
        assert f"trillium.aggregator.v1.{method}Request" in failed.message


text = st.text(max_size=20)
floats = st.floats(width=32)
rows = st.lists(st.lists(floats, max_size=6).map(lambda row: pb.Instance(features=row)), max_size=7)
matrices = st.builds(
    tensor_pb2.Float32Matrix,
    row_count=st.integers(0, 8) | st.integers(0, 2**32 - 1),
    column_count=st.integers(0, 8) | st.integers(0, 2**32 - 1),
    data=st.binary(max_size=200),
)
predict_requests = st.builds(
    pb.PredictRequest,
    instances=rows,
    matrix=st.none() | matrices,
    ensemble=st.just("") | text,
    class_labels=st.lists(st.sampled_from(["setosa", "virginica", ""]) | text, max_size=4),
    allow_partial=st.booleans(),
)
classify_requests = st.builds(
    pb.ClassifyRequest,
    instances=rows,
    matrix=st.none() | matrices,
    ensemble=st.just("") | text,
    allow_partial=st.booleans(),
    include_probabilities=st.booleans(),
)
stream_requests = st.builds(
    pb.PredictStreamRequest,
    request_number=st.integers(0, 2**64 - 1),
    request=predict_requests,
    timeout=st.none()
    | st.fixed_dictionaries(
        {"seconds": st.integers(-(2**63), 2**63 - 1), "nanos": st.integers(-(2**31), 2**31 - 1)}
    ),
)
METHODS = ("Predict", "Classify", "PredictSample", "GetMetadata", "ListPredictors")


def serialised(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda message: bytes(message.SerializeToString()))


def damaged(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Messages cut short, or with a few bytes changed."""
    cut = st.tuples(messages, st.integers(0, 200)).map(lambda both: both[0][: both[1]])
    changed = st.tuples(messages, st.binary(max_size=4), st.integers(0, 60)).map(
        lambda all_: all_[0][: all_[2]] + all_[1] + all_[0][all_[2] + len(all_[1]) :]
    )
    return cut | changed


any_message = serialised(predict_requests) | serialised(classify_requests)
nonsense = st.tuples(
    st.sampled_from(METHODS), st.binary(max_size=300) | any_message | damaged(any_message)
)
streams = st.lists(
    serialised(stream_requests) | damaged(serialised(stream_requests)) | st.binary(max_size=60),
    min_size=1,
    max_size=6,
)

MADE_UP = "Internal error from Core"
"""What grpc.aio's client makes of a stream that the server ends while the client is writing; the
server's own status is lost then."""
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


class Nonsense:
    """Sends what it is given to a live aggregator, on a loop of its own."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._truth = reference(models, "iris", IRIS, iris_rows())

    def __call__(self, batches: list[list[tuple[str, bytes]]], streams: list[list[bytes]]) -> None:
        asyncio.run(self._send(batches, streams))

    async def _send(
        self, batches: list[list[tuple[str, bytes]]], streams: list[list[bytes]]
    ) -> None:
        async with whole_ensemble(self._models, "iris", IRIS) as served:
            for batch in batches:
                calls = [self._unary(served, method, raw) for method, raw in batch]
                await asyncio.gather(*calls)
            await asyncio.gather(*(self._stream(served, raws) for raws in streams))
            assert await served.states() == ["ready"] * 3
            assert np.array_equal(await served.scores(iris_rows()), self._truth)
            await served.until_idle()

    async def _unary(self, served: Aggregated, method: str, raw: bytes) -> None:
        send: Any = served.channel.unary_unary(f"/{SERVICE}/{method}")
        call = send(raw, timeout=CALL_S)
        assert await call.code() in ALLOWED, (method, raw, await call.details())

    async def _stream(self, served: Aggregated, raws: list[bytes]) -> None:
        send: Any = served.channel.stream_stream(f"/{SERVICE}/PredictStream")
        call = send(iter(raws), timeout=CALL_S)
        with suppress(aio.AioRpcError):
            async for raw in call:
                answer = pb.PredictStreamResponse.FromString(raw)
                if answer.WhichOneof("outcome") == "error":
                    assert answer.error.code in (3, 4), (raws, answer)
        if await call.details() == MADE_UP:
            return
        assert await call.code() in ALLOWED, raws


@pytest.mark.parametrize("examples", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_malformed_requests_are_each_answered_and_nothing_stays(
    models: Path, examples: int
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                               HealthCheck.large_base_example],
    )  # fmt: skip
    @given(
        seed=st.integers(0, 2**32 - 1),
        calls=st.lists(nonsense, min_size=15, max_size=40),
        some_streams=st.lists(streams, min_size=2, max_size=8),
    )
    def attack(seed: int, calls: list[tuple[str, bytes]], some_streams: list[list[bytes]]) -> None:
        generator = np.random.default_rng(seed)
        # Hypothesis finds the shapes; from each come many relatives with other bytes.
        relatives = [
            [(method, _changed(raw, generator)) for method, raw in calls] for _ in range(14)
        ]
        Nonsense(models)([calls, *relatives], some_streams)

    attack()


def _changed(raw: bytes, generator: np.random.Generator) -> bytes:
    array = np.frombuffer(raw, np.uint8).copy()
    if len(array):
        places = generator.integers(0, len(array), generator.integers(0, 4))
        array[places] = generator.integers(0, 256, len(places))
    return bytes(
        array[: generator.integers(0, len(array) + 1)] if generator.random() < 0.2 else array
    )


async def test_rows_are_checked_by_the_predictors_while_nothing_is_known() -> None:
    fake = FakePredictor()
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False) as served:
        call = asyncio.ensure_future(served.predict([[0.5, 1, 2], [0.25, 1, 2]]))
        wrong = pb.PredictRequest(instances=[*instances([[1, 2]]), pb.Instance(features=[1])])
        failed = await failure_of(served.stub.Predict(wrong, timeout=CALL_S))
        assert refused(failed).fields == ["instances[1].features"]
        fake.may_describe.set()
        assert unpacked((await call).probabilities).tolist() == [[0.5], [0.25]]
