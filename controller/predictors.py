"""Calls predictors: describes, loads and unloads their models, and scores rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from google.protobuf import wrappers_pb2
from grpc import StatusCode, aio

from trillium.client.wire import HEALTH_CHECK, HEALTH_TYPES, error_of
from trillium.model.declared import DeclaredFacts
from trillium.model.messages import fields_of
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.predictor.v1.predictor_service_pb2_grpc import PredictorServiceStub
from trillium.rows import WIRE_DTYPE, Probabilities, Rows
from trillium.rpc.channels import link_channel
from trillium.tensor.v1 import tensor_pb2

from .seen import SeenPredictor

LOOK_S = 1.0
UNLOAD_S = 60.0
CHUNK_BYTES = 1024 * 1024
MAX_CHANNELS = 512

_SILENCE = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
_BUSY = (model_pb.MODEL_STATE_LOADING, model_pb.MODEL_STATE_UNLOADING)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model as it is sent to a predictor, with the facts that the artifact does not declare."""

    name: str
    digest: str
    content: bytes
    declared: DeclaredFacts


@dataclass(slots=True)
class _Lease:
    """A channel, and the number of calls that use it."""

    channel: aio.Channel
    calls: int = 0


class Predictors:
    """Channels to predictors, made when first needed."""

    def __init__(self) -> None:
        self._leases: OrderedDict[str, _Lease] = OrderedDict()

    async def look(self, address: str) -> SeenPredictor | None:
        """The state of the predictor's model; None if it does not answer."""
        async with self._channel(address) as channel:
            try:
                answer = await ModelServiceStub(channel).GetModel(
                    model_pb.GetModelRequest(), timeout=LOOK_S
                )
            except aio.AioRpcError:
                return None
        ready = answer.state == model_pb.MODEL_STATE_READY
        digest, busy = answer.model.digest if ready else "", answer.state in _BUSY
        return SeenPredictor(digest, busy, answer.fence)

    async def answers(self, address: str, timeout_s: float) -> bool:
        """Whether the server there answers a health check in time, whatever the answer is."""
        async with self._channel(address) as channel:
            try:
                check = channel.unary_unary(HEALTH_CHECK, *HEALTH_TYPES)
                await check(wrappers_pb2.StringValue(), timeout=timeout_s)
            except aio.AioRpcError as error:
                return error.code() not in _SILENCE
        return True

    async def load(
        self, address: str, artifact: Artifact, *, timeout_s: float, fence: int = 0
    ) -> None:
        """Give the predictor a model; returns when the predictor serves it.

        A predictor that has carried out a call with a higher `fence` refuses it with Overtaken; 0
        is always accepted. Raises the predictor's error, or Unreachable.
        """
        async with self._calling(address, timeout_s) as channel:
            await ModelServiceStub(channel).LoadModel(_parts(artifact, fence), timeout=timeout_s)

    async def unload(self, address: str, *, fence: int = 0) -> None:
        """Have the predictor finish its requests and free its model; `fence` and what it raises
        are as with `load`."""
        request = model_pb.UnloadModelRequest(fence=fence)
        async with self._calling(address, UNLOAD_S) as channel:
            await ModelServiceStub(channel).UnloadModel(request, timeout=UNLOAD_S)

    async def score(
        self, address: str, rows: Rows, *, timeout_s: float
    ) -> tuple[Probabilities, str]:
        """The probability of each row, float32 [n], and the digest of the model that answered.

        Raises as `load` does.
        """
        count, width = rows.shape
        data = np.ascontiguousarray(rows, WIRE_DTYPE).tobytes()
        matrix = tensor_pb2.Float32Matrix(row_count=count, column_count=width, data=data)
        async with self._calling(address, timeout_s) as channel:
            stub = PredictorServiceStub(channel)
            answer = await stub.Predict(pb.PredictRequest(matrix=matrix), timeout=timeout_s)
        return np.frombuffer(answer.probabilities, WIRE_DTYPE), answer.model_digest

    async def close(self) -> None:
        """Close every channel. Not used afterwards."""
        for lease in self._leases.values():
            await lease.channel.close()
        self._leases.clear()

    @asynccontextmanager
    async def _calling(self, address: str, timeout_s: float) -> AsyncIterator[aio.Channel]:
        """A channel for one call, whose error is raised as Trillium's own."""
        async with self._channel(address) as channel:
            try:
                yield channel
            except aio.AioRpcError as error:
                raise error_of(error, address, timeout_s) from error

    @asynccontextmanager
    async def _channel(self, address: str) -> AsyncIterator[aio.Channel]:
        """A channel to `address`, which is not closed before the context is left."""
        lease = self._leases.get(address)
        if lease is None:
            lease = self._leases[address] = _Lease(link_channel(address))
        self._leases.move_to_end(address)
        lease.calls += 1
        try:
            yield lease.channel
        finally:
            lease.calls -= 1
            await self._close_surplus()

    async def _close_surplus(self) -> None:
        """Close the channels beyond `MAX_CHANNELS` that were unused for longest. Closing one
        cancels its calls, so one that is in use stays."""
        surplus = len(self._leases) - MAX_CHANNELS
        if surplus > 0:
            unused = [address for address, lease in self._leases.items() if not lease.calls]
            for address in unused[:surplus]:
                await self._leases.pop(address).channel.close()


def _parts(artifact: Artifact, fence: int) -> Iterator[model_pb.LoadModelRequest]:
    content = artifact.content
    header = model_pb.LoadModelHeader(
        name=artifact.name,
        sha256=artifact.digest,
        size_bytes=len(content),
        fence=fence,
        **fields_of(artifact.declared),
    )
    yield model_pb.LoadModelRequest(header=header)
    for start in range(0, len(content), CHUNK_BYTES):
        yield model_pb.LoadModelRequest(chunk=content[start : start + CHUNK_BYTES])
