"""One class behind KServe's model server.

python -m bench.peers.servers.kserve_class GRPC-PORT HTTP-PORT LABEL MODEL
"""

from __future__ import annotations

import sys
from typing import Any

import kserve  # type: ignore[import-not-found]

from bench.peers.servers.model import Model


class Class(kserve.Model):
    """Scores rows."""

    def __init__(self, label: str, path: str) -> None:
        super().__init__(label)
        self._model = Model(path)
        self.ready = True

    async def predict(
        self, payload: Any, headers: Any = None, response_headers: Any = None
    ) -> kserve.InferResponse:
        """The class's probability of each row."""
        scores = self._model.score(payload.inputs[0].as_numpy())
        output = kserve.InferOutput("probability", [len(scores)], "FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return kserve.InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


def serve(model: kserve.Model, grpc_port: str, http_port: str) -> None:
    """Serve a model until SIGTERM."""
    server = kserve.ModelServer(
        grpc_port=int(grpc_port),
        http_port=int(http_port),
        workers=1,
        enable_latency_logging=False,
        event_loop="uvloop",
    )
    server.start([model])


if __name__ == "__main__":
    serve(Class(*sys.argv[3:]), *sys.argv[1:3])
