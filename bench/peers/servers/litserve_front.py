"""A LitServe API that asks the servers of the classes over one httpx client.

python -m bench.peers.servers.litserve_front PORT CLASS-URL...
"""

import asyncio
import sys
from typing import Any

import httpx
import litserve
import numpy as np
from fastapi import Request

from bench.peers.servers.litserve_class import serve
from bench.peers.servers.model import LABELS

_TIMEOUT_S = 30.0


class Iris(litserve.LitAPI):
    """Asks the three classes at once, for many requests at a time."""

    def __init__(self, *urls: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._urls = urls

    def setup(self, device: str) -> None:
        """Called by LitServe in the worker."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits)

    async def decode_request(self, request: Request, **_: Any) -> Any:
        """The rows as they came."""
        return request["rows"]

    async def predict(self, x: Any, **_: Any) -> Any:
        """Every class's probability."""
        return np.array(await asyncio.gather(*(self._ask(url, x) for url in self._urls))).T

    async def encode_response(self, output: Any, **_: Any) -> Any:
        """What is sent."""
        labels = [LABELS[index] for index in output.argmax(axis=1)]
        return {"probabilities": output.tolist(), "labels": labels}

    async def _ask(self, url: str, rows: Any) -> Any:
        answer = await self._client.post(url, json={"rows": rows})
        return answer.raise_for_status().json()["probabilities"]


if __name__ == "__main__":
    serve(Iris(*sys.argv[2:], enable_async=True), sys.argv[1])
