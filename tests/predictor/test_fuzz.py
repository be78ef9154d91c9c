"""Hostile messages: each gets a status, and the server goes on as if nothing was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import artifacts
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.predictor.serving import (
    MODEL_SERVICE,
    PREDICTOR_SERVICE,
    Request,
    Response,
    Served,
    digest_of,
    serving,
    upload,
)
from tests.rpc.errors import failure_of, taken_apart, was_still_writing
from tests.waiting import eventually
from trillium.predictor.v1 import model_service_pb2, predictor_service_pb2
from trillium.tensor.v1 import tensor_pb2

MODEL = artifacts.two_column_tensor()
# Each example sends so many messages of each kind.
BATCH = 12

uint32 = st.sampled_from([0, 1, 2, 3, 4, 5, 65536, 65537, 2**31, 2**32 - 1]) | st.integers(0, 9)
uint64 = st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 9)
odd_text = st.text(max_size=20) | st.sampled_from(["", "../x", "x" * 10_000, "\x00", "a" * 64])
floats = st.lists(st.floats(width=32), max_size=12).map(
    lambda values: b"".join(map(tensor_bytes, values))
)
matrices = st.builds(
    tensor_pb2.Float32Matrix,
    row_count=uint32,
    column_count=uint32,
    data=floats | st.binary(max_size=64),
)
predict_requests = st.builds(predictor_service_pb2.PredictRequest, matrix=matrices)
stream_requests = st.builds(
    Request,
    request_number=uint64,
    matrix=st.none() | matrices,
    timeout_us=uint64,
    request_ids=st.lists(odd_text, max_size=2),
) | st.builds(Request, request_number=uint64, cancel=st.just(predictor_service_pb2.Cancel()))
headers = st.builds(
    model_service_pb2.LoadModelHeader,
    name=odd_text | st.just("setosa"),
    sha256=odd_text | st.sampled_from(["0" * 64, digest_of(MODEL[:-9]), digest_of(b"")]),
    size_bytes=uint64 | st.just(len(MODEL)),
    class_label=odd_text,
    positive_column=st.none() | uint32,
    output_name=odd_text,
)
load_requests = st.builds(model_service_pb2.LoadModelRequest, header=headers) | st.builds(
    model_service_pb2.LoadModelRequest, chunk=st.binary(max_size=99) | st.just(MODEL[:-9])
)


def tensor_bytes(value: float) -> bytes:
    import struct

    return struct.pack("<f", value)


@st.composite
def damaged(draw: Any, messages: Any) -> bytes:
    """A message with some bytes changed, cut off, or put in."""
    raw = bytearray(draw(messages).SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


def hostile(messages: Any) -> Any:
    """Lists of serialised messages: right in form, damaged, and plain noise."""
    raw = messages.map(lambda each: each.SerializeToString())
    one = raw | damaged(messages) | st.binary(max_size=60)
    return st.lists(one, min_size=BATCH, max_size=BATCH)


# What a hostile caller may hear. INTERNAL would be a defect, UNKNOWN an error that went past us.
EXPECTED = {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}


class Attacker:
    """Sends bytes and judges what comes back."""

    def __init__(self, channel: aio.Channel) -> None:
        make: Any = channel
        self._unary = make.unary_unary(f"/{PREDICTOR_SERVICE}/Predict")
        self._stream = make.stream_stream(f"/{PREDICTOR_SERVICE}/PredictStream")
        self._load = make.stream_unary(f"/{MODEL_SERVICE}/LoadModel")

    async def predict(self, raws: Sequence[bytes]) -> None:
        calls = [self._unary(raw, timeout=60) for raw in raws]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            self._judge(result)

    async def stream(self, raws: Sequence[bytes]) -> None:
        try:
            async for raw in self._stream(iter(raws), timeout=60):
                answer = Response.FromString(raw)
                if answer.WhichOneof("outcome") == "error":
                    failure = taken_apart(answer.error)
                    assert failure.code in EXPECTED | {"CANCELLED"}, failure
                    assert failure.domain == "trillium"
        except aio.AioRpcError as error:
            self._judge(error)

    async def load(self, raws: Sequence[bytes]) -> None:
        # Without its end the artifact is never whole, so nothing of this can be loaded.
        try:
            await self._load(iter(raws), timeout=60)
        except aio.AioRpcError as error:
            self._judge(error)
        else:
            pytest.fail("loaded what was no model")

    @staticmethod
    def _judge(result: Any) -> None:
        if isinstance(result, bytes):
            predictor_service_pb2.PredictResponse.FromString(result)
            return
        assert isinstance(result, aio.AioRpcError), result
        failure = failure_of(result)
        if was_still_writing(failure):
            return
        assert failure.code in EXPECTED, failure
        assert failure.domain == "trillium"
        assert failure.reason


@contextmanager
def running_server() -> Iterator[tuple[asyncio.Runner, Served]]:
    """One predictor for all examples, on a loop that each of them can use."""
    with asyncio.Runner() as runner:
        context = serving(MODEL)
        served = runner.run(context.__aenter__())
        try:
            yield runner, served
        finally:
            runner.run(context.__aexit__(None, None, None))


async def is_unharmed(served: Served) -> None:
    """Answers bit for bit what it should, and has nothing left over."""
    reference = reference_positive_probabilities(MODEL, iris_rows(), 1)
    assert (await served.scores(iris_rows())).tobytes() == reference.tobytes()
    await eventually(lambda: served.host.in_flight == 0)
    told = await served.get()
    assert told.model.digest == digest_of(MODEL)
    assert await served.status() == "SERVING"


@pytest.mark.parametrize("examples", [30, pytest.param(120, marks=pytest.mark.thorough)])
def test_hostile_messages_each_get_a_status_and_harm_nothing(
    caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    sent = 0
    with running_server() as (runner, served):
        attacker = Attacker(served.channel)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(hostile(predict_requests), hostile(stream_requests), hostile(load_requests))
        def attack(predicts: list[bytes], streams: list[bytes], loads: list[bytes]) -> None:
            nonlocal sent

            async def at_once() -> None:
                await asyncio.gather(
                    attacker.predict(predicts),
                    attacker.stream(streams),
                    *(attacker.stream([raw]) for raw in streams),
                    attacker.load(loads),
                    *(attacker.load(loads[start : start + 2]) for start in range(0, BATCH, 2)),
                )

            runner.run(at_once())
            sent += 5 * BATCH

        attack()
        assert sent >= 0.7 * 5 * BATCH * examples
        runner.run(is_unharmed(served))
        runner.run(reloads(served))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def reloads(served: Served) -> None:
    """A good upload still succeeds."""
    answer = await served.model.LoadModel(upload(artifacts.odd_names()), timeout=60)
    assert answer.model.digest == digest_of(artifacts.odd_names())
