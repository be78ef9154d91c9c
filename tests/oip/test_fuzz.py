"""Hundreds of hostile requests: each gets an answer or a clear error, and nothing is harmed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.aggregator.serving import IRIS, Aggregated, whole_ensemble
from tests.oip.calling import SERVICE, STREAM, call, numbers, question
from tests.oip.golden.cases import FLOWERS, raw_rows
from tests.rpc.errors import failure_of, was_still_writing
from trillium.oip import open_inference_pb2 as pb

BATCH = 12

whole = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 4, 5, 2**31, 2**63 - 1])
text = (
    st.text(max_size=20)
    | st.sampled_from(["", "../x", "\x00", "é" * 99, "1e3"])
    | st.just(5000).map("x".__mul__)
)
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "classification", "shared_memory_region", "x" * 99]),
    st.builds(pb.InferParameter, int64_param=whole)
    | st.builds(pb.InferParameter, string_param=text)
    | st.builds(pb.InferParameter, uint64_param=st.sampled_from([0, 1, 2**64 - 1]))
    | st.builds(pb.InferParameter, double_param=st.floats())
    | st.builds(pb.InferParameter),
    max_size=3,
)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.just([1.0] * 4) | st.lists(st.floats(width=32), max_size=9),
    int_contents=st.just([]) | st.lists(st.integers(0, 9), max_size=4),
    bytes_contents=st.just([]) | st.lists(st.binary(max_size=4), max_size=2),
)
shapes = st.sampled_from([[1, 4], [3, 4]]) | st.lists(whole, max_size=30)
tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.just("input") | text,
    datatype=st.just("FP32") | text | st.sampled_from(["INT64", "BYTES"]),
    shape=shapes,
    parameters=parameters,
    contents=st.none() | contents,
)
outputs = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor,
    name=st.sampled_from(["probabilities", "label"]) | text,
    parameters=parameters,
)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["iris", "iris-setosa", "iris-"]) | text,
    model_version=st.sampled_from(["", "", "1", "01", "-1", "१"])
    | st.just(5000).map("9".__mul__)
    | text,
    id=text,
    parameters=parameters,
    inputs=st.lists(tensors, min_size=1, max_size=1) | st.lists(tensors, max_size=40),
    outputs=st.just([]) | st.lists(outputs, max_size=30),
    raw_input_contents=st.sampled_from([[], [raw_rows(FLOWERS)], [raw_rows(FLOWERS[:1])]])
    | st.lists(st.binary(max_size=64), max_size=3),
)

# What a hostile caller may hear. INTERNAL would be a defect, UNKNOWN an error that went past us.
EXPECTED = {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}


class Attacker:
    """Sends requests and judges what comes back."""

    def __init__(self, channel: aio.Channel) -> None:
        make: Any = channel
        self._infer = make.unary_unary(f"/{SERVICE}/ModelInfer")
        self._stream = make.stream_stream(STREAM)
        self.answered = 0
        self.refused = 0

    async def infer(self, raws: Sequence[bytes]) -> None:
        calls = [self._infer(raw, timeout=60) for raw in raws]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, bytes):
                assert pb.ModelInferResponse.FromString(result).model_name
                self.answered += 1
                continue
            assert isinstance(result, aio.AioRpcError), result
            failure = failure_of(result)
            assert was_still_writing(failure) or failure.code in EXPECTED, failure
            self.refused += 1

    async def stream(self, raws: Sequence[bytes]) -> None:
        """Every request is answered, in order, and none ends the stream."""
        ids = [pb.ModelInferRequest.FromString(raw).id for raw in raws]
        found = [
            pb.ModelStreamInferResponse.FromString(raw)
            async for raw in self._stream(iter(raws), timeout=60)
        ]
        assert [each.infer_response.id for each in found] == ids
        assert all(bool(each.error_message) != bool(each.infer_response.outputs) for each in found)


# Some are sound in all but one thing, so that what comes late is reached, too.
@st.composite
def nearly_sound(draw: Any) -> pb.ModelInferRequest:
    made = question(FLOWERS, draw(st.sampled_from(["iris", "iris-setosa"])))
    match draw(st.sampled_from(["id", "parameters", "outputs", "inputs"])):
        case "id":
            made.id = draw(text)
        case "parameters":
            made.MergeFrom(pb.ModelInferRequest(parameters=draw(parameters)))
        case "outputs":
            made.outputs.extend(draw(st.lists(outputs, max_size=3)))
        case "inputs":
            made.inputs[0].CopyFrom(draw(tensors))
    return made


@contextmanager
def running_server(models: Path) -> Iterator[tuple[asyncio.Runner, Aggregated]]:
    """One aggregator for all examples, on a loop that each of them can use."""
    with asyncio.Runner() as runner:
        context = whole_ensemble(models, "iris", IRIS)
        served = runner.run(context.__aenter__())
        try:
            yield runner, served
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.thorough)])
def test_hostile_requests_are_answered_or_refused_and_harm_nothing(
    models: Path, caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    with running_server(models) as (runner, served):
        attacker = Attacker(served.channel)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # A failure is shown as it was found: making it smaller takes too long.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(requests | nearly_sound(), min_size=BATCH, max_size=BATCH))
        def attack(asked: list[pb.ModelInferRequest]) -> None:
            raws = [each.SerializeToString() for each in asked]

            async def at_once() -> None:
                await asyncio.gather(attacker.infer(raws), attacker.stream(raws))

            runner.run(at_once())

        attack()
        assert attacker.refused > attacker.answered > 0
        answer = runner.run(call(served.channel, "ModelInfer", question(FLOWERS, "iris")))
        assert numbers(answer).argmax(axis=1).tolist() == [0, 1, 2]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
