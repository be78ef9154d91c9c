"""grpcurl, which knows nothing but the address, learns the API with its comments."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from tests.predictor.serving import Served, serving
from tests.sound_artifacts import two_column_tensor
from trillium.oip import open_inference_pb2
from trillium.rpc.reflection import SeveralPools

GRPCURL = Path(sys.executable).parent / "grpcurl"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(two_column_tensor()) as served:
        yield served


async def grpcurl(served: Served, *arguments: str, before: tuple[str, ...] = ()) -> str:
    process = await asyncio.create_subprocess_exec(
        GRPCURL,
        "-plaintext",
        *before,
        served.predictor.address,
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_every_service_is_listed(served: Served) -> None:
    assert (await grpcurl(served, "list")).split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "trillium.predictor.v1.ModelService",
        "trillium.predictor.v1.PredictorService",
    ]


async def test_description_of_a_service_teaches_by_its_comments(served: Served) -> None:
    text = await grpcurl(served, "describe", "trillium.predictor.v1.PredictorService")
    assert "// Scores one matrix." in text
    assert "FAILED_PRECONDITION/MODEL_NOT_LOADED" in text
    assert "rpc PredictStream ( stream .trillium.predictor.v1.PredictStreamRequest )" in text


@pytest.mark.parametrize(
    ("symbol", "comment"),
    [
        ("trillium.predictor.v1.LoadModelHeader", "// Size of the artifact in bytes; required"),
        ("trillium.tensor.v1.Float32Matrix", "row after row, without padding"),
        ("trillium.predictor.v1.ModelState", "// No model: waiting for LoadModel."),
        ("google.rpc.Status", "message Status"),
        ("trillium.predictor.v1.PredictorService.Predict", "// Scores one matrix."),
        ("inference.GRPCInferenceService.ModelInfer", "rpc ModelInfer"),
        ("inference.GRPCInferenceService", "// What a model takes and answers."),
        ("inference.ModelInferRequest", "// Anything; comes back in the answer."),
        ("grpc.health.v1.HealthCheckResponse", "SERVING = 1"),
    ],
)
async def test_description_of_a_message_teaches(served: Served, symbol: str, comment: str) -> None:
    assert comment in await grpcurl(served, "describe", symbol)


async def test_unknown_symbol_is_an_error_and_the_server_goes_on(served: Served) -> None:
    with pytest.raises(AssertionError, match=r"nobody\.v1"):
        await grpcurl(served, "describe", "nobody.v1.Nothing")
    assert await served.status() == "SERVING"


async def test_call_by_grpcurl_needs_no_proto(served: Served) -> None:
    body = json.dumps({"service": ""})
    text = await grpcurl(served, "grpc.health.v1.Health/Check", before=("-d", body))
    assert json.loads(text) == {"status": "SERVING"}
    text = await grpcurl(served, "trillium.predictor.v1.ModelService/GetModel")
    assert json.loads(text)["model"]["classLabel"] == "setosa"


def test_a_services_own_messages_come_before_others_of_the_same_name() -> None:
    """As when somebody imports another client of the same protocol into the server's process."""
    file = descriptor_pb2.FileDescriptorProto(name="other.proto", package="inference")
    file.service.add(name="GRPCInferenceService")
    others = descriptor_pool.DescriptorPool()
    others.Add(file)

    pool = SeveralPools((open_inference_pb2.DESCRIPTOR.pool, others))

    found = pool.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert found.name == open_inference_pb2.DESCRIPTOR.name
    assert pool.FindFileByName("other.proto").name == "other.proto"
    with pytest.raises(KeyError):
        pool.FindFileByName("nobody.proto")
