"""One class behind LitServe.

    python -m bench.peers.servers.litserve_class PORT MODEL

LitServe reads the annotation of `decode_request`, which must not be text: no annotations from the
future here. It hands over the JSON of the request.
"""

import sys
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from bench.peers.servers.model import Model


class Class(litserve.LitAPI):
    """Scores rows, those of several requests in one run."""

    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._path = path

    def setup(self, device: str) -> None:
        """Called by LitServe in the worker."""
        self._model = Model(self._path)

    def decode_request(self, request: Request, **_: Any) -> Any:
        """The rows of a request."""
        return np.array(request["rows"], np.float32)

    def batch(self, inputs: Sequence[Any]) -> Any:
        """Requests may have different numbers of rows."""
        self._ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return np.concatenate(inputs)

    def predict(self, x: Any, **_: Any) -> Any:
        """The class's probability of each row."""
        return self._model.score(x)

    def unbatch(self, output: Any) -> Any:
        """The rows of each request."""
        return np.split(output, self._ends)

    def encode_response(self, output: Any, **_: Any) -> Any:
        """What is sent."""
        return {"probabilities": output.tolist()}


KEEP_ALIVE_S = 60
"""Longer than httpx keeps an idle connection: what the client uses again must not be closing."""


def serve(api: litserve.LitAPI, port: str) -> None:
    """Serve until SIGTERM."""
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


if __name__ == "__main__":
    serve(Class(sys.argv[2], max_batch_size=64, batch_timeout=0.0005), sys.argv[1])
