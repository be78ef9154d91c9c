"""Ray Serve: a deployment for each class, and one that asks them, behind its gRPC proxy.

    python -m bench.peers.servers.ray_iris GRPC-PORT HTTP-PORT MODELS FOLDER

It speaks the project's own protos, as Ray wants a servicer's function of generated code.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig

from bench.peers.servers.model import LABELS, Model, path_of
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.tensor.v1 import tensor_pb2

_SERVICER = (
    "trillium.aggregator.v1.aggregator_service_pb2_grpc.add_AggregatorServiceServicer_to_server"
)
_ON_ALL_CORES = {"num_cpus": 0.1}


@serve.deployment(max_ongoing_requests=1000, ray_actor_options=_ON_ALL_CORES)
class Class:
    """Scores rows, those of several requests in one run."""

    def __init__(self, path: str) -> None:
        self._model = Model(path)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def __call__(self, blocks: Sequence[Any]) -> list[Any]:
        """The class's probability of each row of each block."""
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        return np.split(self._model.score(np.concatenate(blocks)), ends)


@serve.deployment(max_ongoing_requests=1000, ray_actor_options=_ON_ALL_CORES)
class Iris:
    """Asks the three classes at once."""

    def __init__(self, *classes: Any) -> None:
        self._classes = classes

    async def Classify(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:  # noqa: N802
        """Every class's probability, and the label."""
        matrix = request.matrix
        rows = np.frombuffer(matrix.data, "<f4").reshape(matrix.row_count, matrix.column_count)
        columns = await asyncio.gather(*(each.remote(rows) for each in self._classes))
        scores = np.stack(columns, axis=1)
        best = scores.argmax(axis=1)
        packed = pb.PackedClassifications(
            label_indexes=best.tolist(),
            label_probabilities=scores.max(axis=1).tolist(),
            probabilities=tensor_pb2.Float32Matrix(
                row_count=len(best), column_count=len(LABELS), data=scores.tobytes()
            ),
        )
        return pb.ClassifyResponse(ensemble="iris", class_labels=LABELS, packed=packed)


def main(port: str, http_port: str, models: str, folder: str) -> None:
    """Serve until SIGTERM."""
    ray.init(include_dashboard=False, _temp_dir=folder)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(port=int(http_port)),
        grpc_options=gRPCOptions(port=int(port), grpc_servicer_functions=[_SERVICER]),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    classes = [
        Class.options(name=label).bind(path_of(models, label))  # type: ignore[attr-defined]
        for label in LABELS
    ]
    serve.run(
        Iris.bind(*classes),  # type: ignore[attr-defined]
        name="iris",
        logging_config=LoggingConfig(enable_access_log=False),
    )
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(*sys.argv[1:])
