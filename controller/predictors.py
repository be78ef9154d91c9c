"""Speaks to predictors: what they have, load, unload, score."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from google.protobuf import wrappers_pb2
from grpc import StatusCode, aio

from controller.seen import SeenPredictor
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.predictor.v1.predictor_service_pb2_grpc import PredictorServiceStub
from trillium.rows import WIRE_DTYPE, Probabilities, Rows
from trillium.rpc.channels import link_channel
from trillium.tensor.v1 import tensor_pb2
from trillium.wire import HEALTH_CHECK, HEALTH_TYPES, error_of

LOOK_S = 1.0
UNLOAD_S = 60.0
CHUNK_BYTES = 1024 * 1024
MAX_CHANNELS = 512

_SILENCE = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
_BUSY = (model_pb.MODEL_STATE_LOADING, model_pb.MODEL_STATE_UNLOADING)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model as a predictor is given it, with what the artifact does not say of itself."""

    name: str
    digest: str
    content: bytes
    class_label: str = ""
    positive_column: int | None = None
    output_name: str = ""
    ensemble: str = ""
    class_labels: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    sample: tuple[float, ...] = ()


class Predictors:
    """Channels to predictors, made when first needed."""

    def __init__(self) -> None:
        self._channels: OrderedDict[str, aio.Channel] = OrderedDict()

    async def look(self, address: str) -> SeenPredictor | None:
        """What the predictor has; None if it does not answer."""
        stub = ModelServiceStub(await self._channel(address))
        try:
            answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=LOOK_S)
        except aio.AioRpcError:
            return None
        ready = answer.state == model_pb.MODEL_STATE_READY
        digest, busy = answer.model.digest if ready else "", answer.state in _BUSY
        return SeenPredictor(digest, busy, answer.fence)

    async def answers(self, address: str, timeout_s: float) -> bool:
        """Whether the server there answers a health check in time, whatever it says."""
        check = (await self._channel(address)).unary_unary(HEALTH_CHECK, *HEALTH_TYPES)
        try:
            await check(wrappers_pb2.StringValue(), timeout=timeout_s)
        except aio.AioRpcError as error:
            return error.code() not in _SILENCE
        return True

    async def load(
        self, address: str, artifact: Artifact, *, timeout_s: float, fence: int = 0
    ) -> None:
        """Give the predictor a model; returns when it serves it.

        A predictor that has carried out a call with a higher `fence` refuses it with Overtaken; 0
        is always taken. Raises what the predictor answered, or Unreachable.
        """
        stub = ModelServiceStub(await self._channel(address))
        try:
            await stub.LoadModel(_parts(artifact, fence), timeout=timeout_s)
        except aio.AioRpcError as error:
            raise error_of(error, address, timeout_s) from error

    async def unload(self, address: str, *, fence: int = 0) -> None:
        """Have the predictor finish what it has and free its model; `fence` and what it raises are
        as with `load`."""
        stub = ModelServiceStub(await self._channel(address))
        try:
            await stub.UnloadModel(model_pb.UnloadModelRequest(fence=fence), timeout=UNLOAD_S)
        except aio.AioRpcError as error:
            raise error_of(error, address, UNLOAD_S) from error

    async def score(
        self, address: str, rows: Rows, *, timeout_s: float
    ) -> tuple[Probabilities, str]:
        """The probability of each row, float32 [n], and the digest of the model that answered.

        Raises as `load` does.
        """
        count, width = rows.shape
        data = np.ascontiguousarray(rows, WIRE_DTYPE).tobytes()
        matrix = tensor_pb2.Float32Matrix(row_count=count, column_count=width, data=data)
        stub = PredictorServiceStub(await self._channel(address))
        try:
            answer = await stub.Predict(pb.PredictRequest(matrix=matrix), timeout=timeout_s)
        except aio.AioRpcError as error:
            raise error_of(error, address, timeout_s) from error
        return np.frombuffer(answer.probabilities, WIRE_DTYPE), answer.model_digest

    async def close(self) -> None:
        """Close every channel. Not used afterwards."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _channel(self, address: str) -> aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = link_channel(address)
        self._channels.move_to_end(address)
        if len(self._channels) > MAX_CHANNELS:
            _, oldest = self._channels.popitem(last=False)
            await oldest.close()
        return channel


def _parts(artifact: Artifact, fence: int) -> Iterator[model_pb.LoadModelRequest]:
    content = artifact.content
    header = model_pb.LoadModelHeader(
        name=artifact.name,
        sha256=artifact.digest,
        size_bytes=len(content),
        class_label=artifact.class_label,
        positive_column=artifact.positive_column,
        output_name=artifact.output_name,
        fence=fence,
        ensemble=artifact.ensemble,
        ensemble_class_labels=artifact.class_labels,
        feature_names=artifact.feature_names,
        sample=artifact.sample,
    )
    yield model_pb.LoadModelRequest(header=header)
    for start in range(0, len(content), CHUNK_BYTES):
        yield model_pb.LoadModelRequest(chunk=content[start : start + CHUNK_BYTES])
