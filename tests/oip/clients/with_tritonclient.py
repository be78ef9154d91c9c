"""Everything that tritonclient can ask, of an aggregator and of a predictor that serve iris.

Not a test: test_clients.py runs this text with `python -c` in an environment that has tritonclient
and nothing of ours. Takes their two addresses, prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]], np.float32)
WAIT_S = 60.0


def rows(values: Any = FLOWERS, name: str = "input", datatype: str = "FP32") -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def told(result: Any) -> dict[str, Any]:
    return {
        "id": result.get_response().id,
        "probabilities": result.as_numpy("probabilities").tolist(),
        "label": [label.decode() for label in result.as_numpy("label")],
    }


def failure(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except InferenceServerException as error:
        return str(error.status())
    return "OK"


def about(client: Any, model: str) -> dict[str, Any]:
    client.infer(model, [rows()])
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "unknown_ready": client.is_model_ready("tulips"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True),
        "index": client.get_model_repository_index(as_json=True),
        "statistics": client.get_inference_statistics(model, as_json=True),
    }


def synchronous(client: Any) -> dict[str, Any]:
    best = triton.InferRequestedOutput("probabilities", class_count=2)
    label = triton.InferRequestedOutput("label")
    later: queue.Queue[Any] = queue.Queue()
    client.async_infer("iris", [rows()], lambda result, error: later.put((result, error)))
    result, error = later.get(timeout=WAIT_S)
    return {
        "infer": told(client.infer("iris", [rows()], request_id="7", timeout=5_000_000)),
        "priority": told(client.infer("iris", [rows()], priority=1, parameters={"colour": "red"})),
        "async_infer": told(result) if error is None else str(error),
        "compressed": told(client.infer("iris", [rows()], compression_algorithm="gzip")),
        "classes": client.infer("iris", [rows()], outputs=[best])
        .as_numpy("probabilities")
        .astype(str)
        .tolist(),
        "outputs": [
            output.name
            for output in client.infer("iris", [rows()], outputs=[label, best])
            .get_response()
            .outputs
        ],
        "failures": {
            "model": failure(lambda: client.infer("tulips", [rows()])),
            "version": failure(lambda: client.infer("iris", [rows()], model_version="one")),
            "input": failure(lambda: client.infer("iris", [rows(name="X")])),
            "datatype": failure(
                lambda: client.infer("iris", [rows(FLOWERS.astype(np.float64), datatype="FP64")])
            ),
            "shape": failure(lambda: client.infer("iris", [rows(FLOWERS[:, :3].copy())])),
            "metadata": failure(lambda: client.get_model_metadata("tulips")),
            "shared memory": failure(client.get_system_shared_memory_status),
        },
    }


def streamed(client: Any) -> list[Any]:
    """What comes of a stream whose second request is wrong."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index, name in enumerate(("input", "X", "input")):
        client.async_stream_infer("iris", [rows(name=name)], request_id=str(index))
    found = []
    for _ in range(3):
        result, error = answers.get(timeout=WAIT_S)
        found.append(told(result) if error is None else f"error: {error}")
    client.stop_stream()
    return found


async def asynchronous(address: str) -> dict[str, Any]:
    async with triton_aio.InferenceServerClient(address) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for index in range(3):
                yield {
                    "model_name": "iris",
                    "inputs": [rows()],
                    "request_id": str(index),
                }

        stream = [told(result) async for result, error in client.stream_infer(requests())]
        asked = [client.infer("iris", [rows()], request_id=str(index)) for index in range(8)]
        return {
            "ready": await client.is_server_ready(),
            "infer": [told(result) for result in await asyncio.gather(*asked)],
            "stream": stream,
        }


def repository(client: Any) -> dict[str, Any]:
    """A predictor's models, loaded and unloaded."""
    before = client.infer("iris-setosa", [rows()]).as_numpy("probabilities")
    client.unload_model("iris-setosa")
    unloaded = client.is_model_ready("iris-setosa")
    client.load_model("iris-virginica")
    return {
        "probabilities": before.tolist(),
        "unloaded_ready": unloaded,
        "loaded_ready": client.is_model_ready("iris-virginica"),
        "loaded": client.infer("iris-virginica", [rows()]).as_numpy("probabilities").tolist(),
        "unknown": failure(lambda: client.load_model("tulips")),
    }


def main(aggregator: str, predictor: str) -> dict[str, Any]:
    with (
        triton.InferenceServerClient(aggregator) as front,
        triton.InferenceServerClient(predictor) as single,
    ):
        return {
            "synchronous": synchronous(front),
            "stream": streamed(front),
            "asynchronous": asyncio.run(asynchronous(aggregator)),
            "aggregator": about(front, "iris"),
            "refused": failure(lambda: front.load_model("iris")),
            "predictor": about(single, "iris-setosa"),
            "repository": repository(single),
        }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
