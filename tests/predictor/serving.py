"""A predictor in this process, and callers of it with the generated stubs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from predictor.app import RunningPredictor, running_predictor
from predictor.config import PredictorConfig
from predictor.host import ModelHost
from tests.sound_artifacts import iris_rows
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.predictor.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    predictor_service_pb2,
    predictor_service_pb2_grpc,
)
from trillium.tensor.v1 import tensor_pb2

SETOSA = DeclaredFacts(class_label="setosa", positive_column=1)
ONLY_COLUMN = DeclaredFacts(class_label="setosa")
PREDICTOR_SERVICE = "trillium.predictor.v1.PredictorService"
MODEL_SERVICE = "trillium.predictor.v1.ModelService"

Request = predictor_service_pb2.PredictStreamRequest
Response = predictor_service_pb2.PredictStreamResponse
LoadRequest = model_service_pb2.LoadModelRequest


@dataclass(frozen=True, slots=True)
class Served:
    """A predictor that is up, and stubs that call it."""

    predictor: RunningPredictor
    channel: aio.Channel
    predict: predictor_service_pb2_grpc.PredictorServiceAsyncStub
    model: model_service_pb2_grpc.ModelServiceAsyncStub
    health: Any

    @property
    def host(self) -> ModelHost:
        return self.predictor.host

    async def status(self, service: str = "") -> str:
        """The name of the health status of `service`."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self.health.Check(request, timeout=60)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def scores(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What Predict answers for `rows`."""
        answer = await self.predict.Predict(request_of(rows), timeout=60)
        return np.frombuffer(answer.probabilities, "<f4")

    async def get(self) -> model_service_pb2.GetModelResponse:
        """What GetModel answers."""
        answer: model_service_pb2.GetModelResponse = await self.model.GetModel(
            model_service_pb2.GetModelRequest(), timeout=60
        )
        return answer


@asynccontextmanager
async def serving(
    artifact: bytes | None = None, said: DeclaredFacts = SETOSA, **config: Any
) -> AsyncIterator[Served]:
    """A predictor on a free port, with `artifact` loaded if there is one."""
    settings = PredictorConfig(**{"listen": "127.0.0.1:0", "drain_s": 5.0, **config})
    async with running_predictor(settings) as predictor:
        if artifact is not None:
            await load(predictor.host, artifact, said)
        async with aio.insecure_channel(predictor.address) as channel:
            yield Served(
                predictor,
                channel,
                predictor_service_pb2_grpc.PredictorServiceStub(channel),
                model_service_pb2_grpc.ModelServiceStub(channel),
                health_pb2_grpc.HealthStub(channel),
            )


async def load(
    host: ModelHost, artifact: bytes, said: DeclaredFacts = SETOSA, name: str = "setosa"
) -> ModelDescription:
    """Load `artifact` without the wire."""
    return await host.load(name, artifact, digest_of(artifact), said)


def digest_of(artifact: bytes) -> str:
    return hashlib.sha256(artifact).hexdigest()


def matrix_of(rows: npt.NDArray[np.float32]) -> tensor_pb2.Float32Matrix:
    """`rows` [n, k] as they travel."""
    row_count, column_count = rows.shape
    return tensor_pb2.Float32Matrix(
        row_count=row_count, column_count=column_count, data=rows.astype("<f4").tobytes()
    )


def request_of(rows: npt.NDArray[np.float32]) -> predictor_service_pb2.PredictRequest:
    return predictor_service_pb2.PredictRequest(matrix=matrix_of(rows))


def streamed(number: int, rows: npt.NDArray[np.float32] | None = None, **fields: Any) -> Request:
    """A streamed request to score `rows`, or one row of iris chosen by `number`."""
    some = iris_rows()[number % 150 : number % 150 + 1] if rows is None else rows
    return Request(request_number=number, matrix=matrix_of(some), **fields)


def withdrawal(number: int) -> Request:
    return Request(request_number=number, cancel=predictor_service_pb2.Cancel())


def upload(
    artifact: bytes, chunk_bytes: int = 65536, **header: Any
) -> Iterator[model_service_pb2.LoadModelRequest]:
    """The messages of a LoadModel that sends `artifact`; `header` overrides what is sound."""
    facts = {
        "name": "setosa",
        "sha256": digest_of(artifact),
        "size_bytes": len(artifact),
        "class_label": "setosa",
        "positive_column": 1,
        **header,
    }
    yield LoadRequest(header=model_service_pb2.LoadModelHeader(**facts))
    for start in range(0, len(artifact), chunk_bytes):
        yield LoadRequest(chunk=artifact[start : start + chunk_bytes])


def by_name(name: str, **header: Any) -> model_service_pb2.LoadModelRequest:
    """The one message of a LoadModel that names what the predictor reads itself."""
    return LoadRequest(header=model_service_pb2.LoadModelHeader(name=name, **header))
