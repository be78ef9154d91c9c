"""Models of MLServer's: one for a class, and one that asks the servers of all classes."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from grpc import aio
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peers.servers.model import LABELS, Model


class Class(MLModel):
    """Scores rows; its settings say where the artifact is."""

    async def load(self) -> bool:
        """Called by MLServer."""
        self._model = Model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The class's probability of each row."""
        scores = self._model.score(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("probability", scores[:, None])
        return InferenceResponse(model_name=self.name, outputs=[output])


class Iris(MLModel):
    """Asks the three classes at once; its settings say where they are."""

    async def load(self) -> bool:
        """Called by MLServer."""
        addresses = self.settings.parameters.extra["addresses"]
        self._stubs: list[Any] = [
            GRPCInferenceServiceStub(aio.insecure_channel(address)) for address in addresses
        ]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Every class's probability, and the label."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        asked = zip(self._stubs, LABELS, strict=True)
        columns = await asyncio.gather(*(_ask(stub, label, rows) for stub, label in asked))
        scores = np.stack(columns, axis=1).astype(np.float32)
        labels = [LABELS[index] for index in scores.argmax(axis=1)]
        outputs = [
            NumpyCodec.encode_output("probabilities", scores),
            StringCodec.encode_output("label", labels),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def _ask(stub: Any, label: str, rows: Any) -> Any:
    request = pb.ModelInferRequest(model_name=label)
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.astype(np.float32, copy=False).tobytes())
    answer = await stub.ModelInfer(request)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return np.array(answer.outputs[0].contents.fp32_contents, np.float32)
