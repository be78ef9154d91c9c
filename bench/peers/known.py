"""Every peer: its environment, how it is started, and what was tuned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

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
}
