"""One class behind FastAPI.

python -m bench.peers.servers.fastapi_class PORT MODEL
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers.servers.model import Model

KEEP_ALIVE_S = 60
"""Longer than httpx keeps an idle connection, which is uvicorn's own five seconds: what the client
uses again must not be closing."""


class Asked(BaseModel):
    """Rows of features."""

    rows: list[list[float]]


class Answer(BaseModel):
    """The class's probability of each row."""

    probabilities: list[float]


def main(port: str, path: str) -> None:
    """Serve until SIGTERM."""
    app, model = FastAPI(), Model(path)

    async def predict(asked: Asked) -> Answer:
        return Answer(probabilities=model.score(asked.rows).tolist())

    app.add_api_route("/predict", predict, methods=["POST"])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
