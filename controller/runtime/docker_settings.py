"""Which engine, whose containers, and how they are made. Knows no Docker library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

MIB = 1024 * 1024

_OWNER = re.compile(r"[a-z0-9]{1,32}")


class Reach(Enum):
    """How the controller and the aggregators reach a predictor's port."""

    LOOPBACK = "loopback"
    """They run on the engine's machine: a port of 127.0.0.1 that the engine picks."""
    NETWORK = "network"
    """They run in containers on the same network: the container's short id, which the engine's DNS
    resolves there. Neither it nor its meaning is used again, as an IP address would be."""


@dataclass(frozen=True, slots=True)
class DockerTls:
    """Files for an engine behind TLS."""

    ca: Path
    """The authority that signed the engine's certificate."""
    certificate: Path | None = None
    """Ours, if the engine wants one, with its `key`."""
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """One engine, and the containers on it that are ours. Raises ValueError for what cannot be."""

    base_url: str
    """`unix:///path`, `tcp://host:port` or, with `tls`, `https://host:port`."""
    image: str
    """With Python and the predictor, on the engine already: nothing is ever pulled."""
    owner: str
    """Marks our containers among those of other controllers on the engine: 1 to 32 lower-case
    letters and digits. No dash, so that two owners never make the same container name."""
    reach: Reach = Reach.LOOPBACK
    network: str = "bridge"
    """Network of the containers. It exists already; for Reach.NETWORK it is a user-defined one."""
    tls: DockerTls | None = None
    server: str = "docker"
    """What the engine is called in `Container.server` and `Server.name`."""
    cpus: float = 1.0
    """For a container whose spec has none."""
    memory_bytes: int = 1024 * MIB
    """For a container whose spec has none."""
    pids: int = 256
    """Most processes and threads in a container."""
    temporary_bytes: int = 64 * MIB
    """Size of /tmp, which lies in memory and counts as such."""
    keep_for: tuple[str, ...] = ()
    """Labels of those that the containers are kept for, each as `name=value`: a runtime that is
    closed while no running container has all of them removes its own. Empty keeps them always."""
    arguments: tuple[str, ...] = ()
    """More arguments for every predictor, such as `--threads 2`."""
    timeout_s: int = 10
    """How long one request to the engine may take. Whole seconds, as the library wants them."""

    def __post_init__(self) -> None:
        if not _OWNER.fullmatch(self.owner):
            text = "expected 1 to 32 lower-case letters and digits"
            raise ValueError(f"the owner {self.owner!r} cannot be used: {text}")
        if self.reach is Reach.NETWORK and self.network in ("bridge", "host", "none", "default"):
            raise ValueError(
                f"on the network {self.network!r} containers have no names: make one with "
                "`docker network create` and name it"
            )
