"""The aggregator that one writes first (A): for each request three unary calls and a gather.

    python -m bench.systems.naive ADDRESS PREDICTOR-ADDRESS...
    python -m bench.systems.naive --predictor ADDRESS MODEL

It speaks the same protos with the generated stubs and servicers, as grpc.aio's documentation shows
them, and does the same job: one request in, every class's probability and the label out.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1 import aggregator_service_pb2_grpc as pb_grpc
from trillium.predictor.v1 import predictor_service_pb2 as predictor_pb
from trillium.predictor.v1 import predictor_service_pb2_grpc as predictor_grpc
from trillium.tensor.v1 import tensor_pb2

LABELS = ("setosa", "versicolor", "virginica")


class Predictor(predictor_grpc.PredictorServiceServicer):
    """One model."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[1].name

    async def Predict(  # noqa: N802
        self, request: predictor_pb.PredictRequest, context: Any
    ) -> predictor_pb.PredictResponse:
        """Score one matrix."""
        matrix = request.matrix
        rows = np.frombuffer(matrix.data, "<f4").reshape(matrix.row_count, matrix.column_count)
        (probabilities,) = self._session.run([self._output], {self._input: rows})
        return predictor_pb.PredictResponse(probabilities=probabilities[:, 1].tobytes())


class Aggregator(pb_grpc.AggregatorServiceServicer):
    """All models, asked at once."""

    def __init__(self, addresses: Sequence[str]) -> None:
        channels = [aio.insecure_channel(address) for address in addresses]
        self._stubs: list[Any] = [
            predictor_grpc.PredictorServiceStub(channel) for channel in channels
        ]

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: Any
    ) -> pb.ClassifyResponse:
        """Every class's probability, and the label."""
        ask = predictor_pb.PredictRequest(matrix=request.matrix)
        answers = await asyncio.gather(*(stub.Predict(ask, timeout=10) for stub in self._stubs))
        columns = np.stack(
            [np.frombuffer(answer.probabilities, "<f4") for answer in answers], axis=1
        )
        best = columns.argmax(axis=1)
        packed = pb.PackedClassifications(
            label_indexes=best.tolist(),
            label_probabilities=columns.max(axis=1).tolist(),
            probabilities=tensor_pb2.Float32Matrix(
                row_count=len(best), column_count=len(LABELS), data=columns.tobytes()
            ),
        )
        return pb.ClassifyResponse(ensemble="iris", class_labels=LABELS, packed=packed)


async def serve_until_told(server: aio.Server, address: str) -> None:
    """Serve until SIGTERM."""
    server.add_insecure_port(address)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(1)


async def main(words: Sequence[str]) -> None:
    """Serve until SIGTERM."""
    server = aio.server()
    if words[0] == "--predictor":
        address, model = words[1:]
        service = Predictor(Path(model))  # type: ignore[abstract]
        predictor_grpc.add_PredictorServiceServicer_to_server(service, server)
    else:
        address, *others = words
        front = Aggregator(others)  # type: ignore[abstract]
        pb_grpc.add_AggregatorServiceServicer_to_server(front, server)
    await serve_until_told(server, address)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
