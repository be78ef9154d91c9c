"""Every peer: its environment, how it is started, and what was tuned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import proxies
from bench.peers.triton import pytriton, triton
from bench.systems.known import Up


@dataclass(frozen=True, slots=True)
class Peer:
    """What somebody could serve the ensemble with instead."""

    environment: str
    """Name of the file in requirements/peers."""
    start: Callable[[Path, Path, Path], AbstractContextManager[Up]]
    """Takes the environment, the folder of the models, and a folder for what it writes; the
    system may still be starting when the context is entered."""
    tuned: str
    """What differs from its defaults, and why it is the peer's best form."""


PEERS = {
    "triton": Peer(
        "triton",
        triton,
        "Triton's ensemble of three models and a combining one, Python backend, one instance "
        "each; dynamic batching without delay, a batch is one run; no HTTP, no metrics",
    ),
    "pytriton": Peer(
        "triton",
        pytriton,
        "three models and a front that asks them at once over one gRPC channel of asyncio's; "
        "dynamic batching without delay, a batch is one run; no HTTP, no metrics",
    ),
    "fastapi": Peer(
        "fastapi",
        proxies.fastapi,
        "FastAPI, one service a class and a proxy that opens an httpx client for each request, as "
        "the older system did; uvicorn with uvloop and httptools, no access log",
    ),
    "fastapi-shared": Peer(
        "fastapi", proxies.fastapi_shared, "the same with one httpx client, connections unlimited"
    ),
    "kserve": Peer(
        "kserve",
        proxies.kserve,
        "four model servers over gRPC, the front with KServe's own client, kept open; raw tensors; "
        "uvloop, no latency log",
    ),
    "mlserver": Peer(
        "mlserver",
        proxies.mlserver,
        "four servers over gRPC, channels kept open; models in the servers' own process "
        "(parallel_workers 0), adaptive batching of at most 0.5 ms, no debug, no metrics",
    ),
    "bentoml": Peer(
        "bentoml",
        proxies.bentoml,
        "four services of one worker each; the classes' are batchable, asked by `to_async`; "
        "no access log",
    ),
    "litserve": Peer(
        "litserve",
        proxies.litserve,
        "four servers of one worker each; the classes' batch for at most 0.5 ms, the front is "
        "asynchronous with one httpx client",
    ),
    "ray": Peer(
        "ray",
        proxies.ray,
        "four deployments of one replica behind one proxy; the classes' batch without delay, "
        "RAY_SERVE_THROUGHPUT_OPTIMIZED, no access log, no dashboard",
    ),
}
