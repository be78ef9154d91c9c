"""PyTriton: three models of a class and one that asks them all, behind Triton's own front.

python -m bench.peers.servers.pytriton_iris GRPC-PORT MODELS WORKSPACE
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from tritonclient import grpc as requests_pb
from tritonclient.grpc import aio

from bench.peers.servers.model import LABELS, Model, path_of

_CONFIG = ModelConfig(max_batch_size=4096, batcher=DynamicBatcher(max_queue_delay_microseconds=0))


class Iris:
    """Asks the three models at once, for all requests of a batch together."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Any = None

    async def __call__(self, requests: Sequence[Any]) -> list[dict[str, Any]]:
        """Called by PyTriton on its own loop."""
        if self._client is None:
            self._client = aio.InferenceServerClient(self._address)
        blocks = [request["input"] for request in requests]
        rows = np.concatenate(blocks)
        columns = await asyncio.gather(*(self._ask(label, rows) for label in LABELS))
        scores = np.concatenate(columns, axis=1)
        labels = np.array([label.encode() for label in LABELS])[scores.argmax(axis=1)][:, None]
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        parts = zip(np.split(scores, ends), np.split(labels, ends), strict=True)
        return [{"probabilities": part, "label": names} for part, names in parts]

    async def _ask(self, label: str, rows: Any) -> Any:
        tensor = requests_pb.InferInput("input", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        answer = await self._client.infer(label, [tensor])
        return answer.as_numpy("probability")


def of_class(model: Model) -> Callable[..., Any]:
    """What PyTriton calls for a class."""

    @batch
    def score(input: Any) -> dict[str, Any]:
        return {"probability": model.score(input)[:, None]}

    return score


def main(port: str, models: str, workspace: str) -> None:
    """Serve until SIGTERM."""
    config = TritonConfig(
        grpc_port=int(port), grpc_address="127.0.0.1", allow_http=False, allow_metrics=False
    )
    rows = Tensor(name="input", dtype=np.float32, shape=(4,))
    with Triton(config=config, workspace=workspace) as triton:
        for label in LABELS:
            triton.bind(
                model_name=label,
                infer_func=of_class(Model(path_of(models, label))),
                inputs=[rows],
                outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
                config=_CONFIG,
            )
        triton.bind(
            model_name="iris",
            infer_func=Iris(f"127.0.0.1:{port}"),
            inputs=[rows],
            outputs=[
                Tensor(name="probabilities", dtype=np.float32, shape=(3,)),
                Tensor(name="label", dtype=bytes, shape=(1,)),
            ],
            config=_CONFIG,
        )
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
