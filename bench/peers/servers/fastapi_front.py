"""A proxy with FastAPI and httpx that asks the service of each class.

    python -m bench.peers.servers.fastapi_front PORT shared|each CLASS-URL...

With `each` it opens an httpx client for each request, as the older system did; with `shared` it
keeps one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers.servers.fastapi_class import Asked
from bench.peers.servers.model import LABELS

_TIMEOUT_S = 30.0


class Answer(BaseModel):
    """Every class's probability of each row, and its label."""

    probabilities: list[list[float]]
    labels: list[str]


def main(port: str, clients: str, *urls: str) -> None:
    """Serve until SIGTERM."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    shared = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits) if clients == "shared" else None

    @asynccontextmanager
    async def kept(client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
        yield client

    def client() -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return kept(shared) if shared else httpx.AsyncClient(timeout=_TIMEOUT_S)

    async def ask(client: httpx.AsyncClient, url: str, asked: Asked) -> Any:
        answer = await client.post(url, json={"rows": asked.rows})
        return answer.raise_for_status().json()["probabilities"]

    async def classify(asked: Asked) -> Answer:
        async with client() as open_client:
            columns = await asyncio.gather(*(ask(open_client, url, asked) for url in urls))
        scores = np.array(columns).T
        labels = [LABELS[index] for index in scores.argmax(axis=1)]
        return Answer(probabilities=scores.tolist(), labels=labels)

    app = FastAPI()
    app.add_api_route("/classify", classify, methods=["POST"])
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
