"""A model of KServe's that asks the model servers of the classes with KServe's own gRPC client.

python -m bench.peers.servers.kserve_front GRPC-PORT HTTP-PORT CLASS-ADDRESS...
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import kserve  # type: ignore[import-not-found]
import numpy as np
from kserve.inference_client import InferenceGRPCClient  # type: ignore[import-not-found]

from bench.peers.servers.kserve_class import serve
from bench.peers.servers.model import LABELS


class Iris(kserve.Model):
    """Asks the three classes at once."""

    def __init__(self, *addresses: str) -> None:
        super().__init__("iris")
        self._addresses = dict(zip(LABELS, addresses, strict=True))
        self._clients: dict[str, InferenceGRPCClient] = {}
        self.ready = True

    async def predict(
        self, payload: Any, headers: Any = None, response_headers: Any = None
    ) -> kserve.InferResponse:
        """Every class's probability, and the label."""
        if not self._clients:
            self._clients = {
                label: InferenceGRPCClient(address) for label, address in self._addresses.items()
            }
        rows = payload.inputs[0].as_numpy()
        scores = np.stack(
            await asyncio.gather(*(self._ask(label, rows) for label in LABELS)), axis=1
        )
        best = np.array([LABELS[index].encode() for index in scores.argmax(axis=1)], object)
        outputs = [
            kserve.InferOutput("probabilities", list(scores.shape), "FP32"),
            kserve.InferOutput("label", [len(best)], "BYTES"),
        ]
        for output, values in zip(outputs, (scores, best), strict=True):
            output.set_data_from_numpy(values, binary_data=True)
        return kserve.InferResponse(payload.id, self.name, outputs, use_binary_outputs=True)

    async def _ask(self, label: str, rows: Any) -> Any:
        tensor = kserve.InferInput("input", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=True)
        answer = await self._clients[label].infer(kserve.InferRequest(label, [tensor]))
        return answer.outputs[0].as_numpy()


if __name__ == "__main__":
    serve(Iris(*sys.argv[3:]), *sys.argv[1:3])
