"""What the controller asks of whatever runs predictors: child processes or a container engine.

Rules that make it safe, whoever calls and however late a request is carried out:

- A container is one attempt at one instance of one deployment. Owner, deployment, instance and
  attempt are in its labels, and its name is made of them; the attempt only ever grows.
- A container is removed by its full id, as `look` gave it, never by name.
- It is never restarted in place, and never removed by the engine itself: its log and exit code stay
  until the controller has read them.
- A failed look is `RuntimeUnreachable`; it never means that there is nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class ContainerState(Enum):
    """What a container does."""

    STARTING = "starting"
    """Made, but not started yet."""
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to create: a predictor without a model, waiting for LoadModel."""

    deployment: str
    instance: int
    attempt: int
    cpus: float | None = None
    """Cores it may use; None means the runtime's default."""
    memory_bytes: int | None = None
    """Memory, swap included, that it may use; None means the runtime's
    default."""
    image: str = ""
    """Image to run; empty means the runtime's own. Processes have none and do not look at it."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it was seen."""

    id: str
    """Full id, 64 hexadecimal digits; new for every container."""
    deployment: str
    instance: int
    attempt: int
    state: ContainerState
    address: str = ""
    """Where its predictor listens or will listen, as the controller and aggregators reach it
    (`host:port` or `unix:/path`); empty if that is not known (yet) or it is not running."""
    server: str = ""
    """The engine or node that it is on."""
    exit_code: int | None = None
    """Of one that has exited, as a shell reports it: 128 plus the signal that ended it.
    None while it runs, and where the engine does not know."""
    out_of_memory: bool = False
    """Whether it was killed for using more memory than it may."""


@dataclass(frozen=True, slots=True)
class Server:
    """A machine or engine that runs containers."""

    name: str
    runtime: str
    """"process" or "docker"."""
    reachable: bool
    detail: str = ""
    """Why it is not reachable, for a person; else its version."""
    cpus: float = 0.0
    memory_bytes: int = 0
    cpus_reserved: float = 0.0
    """The limits of all of our containers there, added up."""
    memory_bytes_reserved: int = 0
    container_count: int = 0
    """Ours."""


class RuntimeFailure(Exception):
    """Base of what a runtime raises. `str()` of it is for a person."""


class RuntimeUnreachable(RuntimeFailure):
    """The engine does not answer, or not in time. What was asked may have happened or may yet."""


class ContainerRefused(RuntimeFailure):
    """The engine will not make this container, and asking again does not help: no such image, or
    limits that it cannot give. Nothing was left behind. `str()` names what to change."""


class Runtime(Protocol):
    """The port. One contract suite runs against every implementation."""

    @property
    def name(self) -> str:
        """ "process" or "docker"."""
        ...

    async def open(self) -> None:
        """Get ready. An engine that does not answer yet is no error."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads, in a bounded time also if the engine hangs. Child
        processes end; containers stay. `changes` end with RuntimeUnreachable. It is the end of this
        object: it is not opened again."""
        ...

    async def look(self) -> Sequence[Container]:
        """Every container of this owner, whatever it does. Raises RuntimeUnreachable."""
        ...

    async def create(self, spec: ContainerSpec) -> None:
        """Make and start a container. If one of that deployment, instance and attempt is there,
        nothing is done, but that it is started if it never was. Raises RuntimeUnreachable,
        ContainerRefused.

        Cancelling the caller does not cancel the engine's work: the next look decides.
        """
        ...

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        """Stop and remove a container, giving it `grace_s` seconds after SIGTERM. One that is gone,
        or going, or not this owner's, is a success and left alone. Raises RuntimeUnreachable."""
        ...

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        """The last lines that it wrote, standard output and error together; empty if it is gone.
        Raises RuntimeUnreachable."""
        ...

    async def servers(self) -> Sequence[Server]:
        """The machines behind this runtime, reachable or not; never raises."""
        ...

    def changes(self) -> AsyncGenerator[None, None]:
        """Wakes its reader at once, so that it begins with a look, and then after containers may
        have changed. It only wakes, may miss things, and heals lost connections by itself. It does
        not end before the runtime is closed; `aclose()` lets go of it."""
        ...
