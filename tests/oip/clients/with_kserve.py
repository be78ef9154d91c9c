"""What KServe's client asks, of an aggregator and of a predictor that serve iris.

Not a test: test_clients.py runs this text with `python -c` in an environment that has kserve and
nothing of ours. Takes their two addresses, prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import kserve  # type: ignore[import-not-found]
import numpy as np
from kserve.protocol.grpc import (  # type: ignore[import-not-found]
    grpc_predict_v2_pb2,
    grpc_predict_v2_pb2_grpc,
)

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]], np.float32)


def request(model: str, *, raw: bool, shape: tuple[int, int] = (3, 4)) -> Any:
    tensor = kserve.InferInput("input", list(shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS[: shape[0], : shape[1]].copy(), binary_data=raw)
    return kserve.InferRequest(model, [tensor], request_id="7")


async def infer(client: Any, model: str, *, raw: bool) -> dict[str, Any]:
    answer = await client.infer(request(model, raw=raw))
    values = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    texts = [each.decode() if isinstance(each, bytes) else each for each in values.pop("label", [])]
    return {"id": answer.id, "label": texts, **values}


async def failure(client: Any, asked: Any) -> str:
    try:
        await client.infer(asked)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


async def repository(address: str) -> dict[str, Any]:
    """Its generated stub: the client itself has no call for this."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        messages = grpc_predict_v2_pb2
        gone = await stub.RepositoryModelUnload(
            messages.RepositoryModelUnloadRequest(model_name="iris-setosa")
        )
        there = await stub.RepositoryModelLoad(
            messages.RepositoryModelLoadRequest(model_name="iris-setosa")
        )
        metadata = await stub.ModelMetadata(messages.ModelMetadataRequest(name="iris-setosa"))
        return {
            "unloaded": [gone.model_name, gone.isUnloaded],
            "loaded": [there.model_name, there.isLoaded],
            "inputs": [[each.name, each.datatype, list(each.shape)] for each in metadata.inputs],
        }


async def main(aggregator: str, predictor: str) -> dict[str, Any]:
    front, single = kserve.InferenceGRPCClient(aggregator), kserve.InferenceGRPCClient(predictor)
    found = {
        "live": await front.is_server_live(),
        "ready": await front.is_server_ready(),
        "model_ready": await front.is_model_ready("iris"),
        "unknown_ready": await front.is_model_ready("tulips"),
        "raw": await infer(front, "iris", raw=True),
        "typed": await infer(front, "iris", raw=False),
        "predictor": await infer(single, "iris-setosa", raw=True),
        "unknown": await failure(front, request("tulips", raw=True)),
        "shape": await failure(front, request("iris", raw=True, shape=(3, 3))),
        "repository": await repository(predictor),
    }
    await front.close()
    await single.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
