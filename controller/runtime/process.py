"""Predictors as child processes of the controller: the runtime of a machine without an engine.

Each listens on a unix socket in a private folder. A port of the loopback could be given to another
process as soon as its predictor is dead, and an aggregator that has not heard of the death yet
would ask the wrong model; a socket's path is never used again. It is known before the start, too,
so nobody has to find out which port it became. Aggregators must run on this machine as this user.

Children end when the controller does, however it ends. They write into files of their own and not
into pipes, so that a controller that hangs does not hang them. What a limit means for a process:

- memory: looked at once a second, and a process that uses more is killed. (RLIMIT_AS counts
  addresses, of which an ONNX session reserves many times the memory that it uses.)
- cpus: refused. A process can be given priorities and cores, not a share, and a limit that is
  accepted and not kept is worse than none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trillium.server import programs
from trillium.server.tasks import Supervisor

from ..private_folder import PrivateFolder
from .limits import check_limits
from .port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    RuntimeFailure,
    RuntimeUnreachable,
    Server,
)
from .process_child import PredictorProcess
from .process_template import Template, is_possible
from .wakes import RuntimeWatches

log = logging.getLogger(__name__)

KIB = 1024
INSPECTION_S = 1.0
"""How often memory and the length of the output are looked at."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How predictors are started."""

    folder: Path | None = None
    """Where the private folder for sockets and output is made; None: where temporary files go."""
    arguments: tuple[str, ...] = ()
    """More arguments for every predictor, such as `--threads 2`."""
    environment: Mapping[str, str] | None = None
    """The whole environment of the predictors; None: this process's own."""
    output_bytes: int = 256 * KIB
    """Of each predictor's output, at least the last half of this is kept and hardly more."""
    close_grace_s: float = 10.0
    """How long `close` lets predictors drain before it kills them."""


class ProcessRuntime:
    """The Runtime port on child processes. It serves one event loop, which must run in a thread
    that lives as long as the children should: the main thread, as a rule."""

    def __init__(self, settings: ProcessSettings | None = None) -> None:
        self._settings = settings or ProcessSettings()
        self._server = socket.gethostname()
        self._children: dict[str, PredictorProcess] = {}
        self._wakes = RuntimeWatches()
        self._tasks = Supervisor()
        self._folder: PrivateFolder | None = None
        self._template = Template(self._settings.environment) if is_possible() else None

    @property
    def name(self) -> str:
        """ "process"."""
        return "process"

    async def open(self) -> None:
        """Make the private folder. Raises RuntimeUnreachable if that is not possible."""
        try:
            self._folder = await asyncio.to_thread(PrivateFolder, self._settings.folder)
        except OSError as error:
            raise RuntimeUnreachable(f"there is no folder for processes: {error}") from error
        self._tasks.keep("inspection of predictors", self._inspect_all)

    async def close(self) -> None:
        """End all children and delete what they left."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        if self._template is not None:
            await self._template.close()
        children = tuple(self._children.values())
        await asyncio.gather(*(self._end(each, self._settings.close_grace_s) for each in children))
        await self._tasks.close()
        self._wakes.close()
        await asyncio.to_thread(folder.delete)

    async def look(self) -> Sequence[Container]:
        """Every child that was not removed."""
        self._opened()
        return [child.seen(self._server) for child in self._children.values()]

    async def create(self, spec: ContainerSpec) -> None:
        """Start a predictor, unless that attempt is there."""
        folder = self._opened()
        check_limits(spec)
        _refuse_what_cannot_be_kept(spec)
        child = self._find(spec)
        if child is None:
            # 256 random bits: no two starts share them, also across controllers and machines.
            child = PredictorProcess(secrets.token_hex(32), spec, folder.path)
            self._children[child.id] = child
        await asyncio.shield(self._begin(f"start of {child.id}", self._start(child)))

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        """End a child, and forget it and its output."""
        self._opened()
        if child := self._children.get(container_id):
            removal = self._remove(child, grace_s)
            await asyncio.shield(self._begin(f"removal of {child.id}", removal))

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        """The last lines of a child's output."""
        self._opened()
        child = self._children.get(container_id)
        if child is None:
            return ""
        return await asyncio.to_thread(child.last_lines, lines, self._settings.output_bytes)

    async def servers(self) -> Sequence[Server]:
        """This machine."""
        specs = [child.spec for child in self._children.values()]
        return [
            Server(
                name=self._server,
                runtime=self.name,
                reachable=self._folder is not None,
                detail="" if self._folder else "the runtime is closed",
                cpus=float(os.cpu_count() or 0),
                memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                memory_bytes_reserved=sum(spec.memory_bytes or 0 for spec in specs),
                container_count=len(specs),
            )
        ]

    def changes(self) -> AsyncGenerator[None, None]:
        """Wakes its reader at once, and after a child began, ended or was removed."""
        return self._wakes.watch()

    def _opened(self) -> PrivateFolder:
        if self._folder is None:
            raise RuntimeUnreachable("the runtime is not open")
        return self._folder

    def _find(self, spec: ContainerSpec) -> PredictorProcess | None:
        wanted = (spec.deployment, spec.instance, spec.attempt)
        for child in self._children.values():
            if (child.spec.deployment, child.spec.instance, child.spec.attempt) == wanted:
                return child
        return None

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do `work` in a task that goes on if its caller gives up."""
        return self._tasks.start(name, work, expected=RuntimeFailure)

    async def _start(self, child: PredictorProcess) -> None:
        own = (f"--listen={child.address}", f"--parent-pid={os.getpid()}")
        arguments = (*own, *self._settings.arguments)
        async with child.starting:
            if child.is_started or child.id not in self._children or self._folder is None:
                return
            try:
                if self._template is None or not await child.fork(self._template, arguments):
                    command = programs.command("predictor", *arguments)
                    environment = self._settings.environment or programs.environment()
                    await child.start(*command, environment=environment)
            except (FileNotFoundError, PermissionError) as error:
                await self._forget(child)
                raise ContainerRefused(f"{sys.executable} cannot be started: {error}") from error
            except OSError as error:
                await self._forget(child)
                text = f"this machine cannot start another process now: {error}"
                raise RuntimeUnreachable(text) from error
            self._begin(f"end of {child.id}", self._reap(child))
        self._wakes.wake()

    async def _reap(self, child: PredictorProcess) -> None:
        await child.ended()
        self._wakes.wake()

    async def _end(self, child: PredictorProcess, grace_s: float) -> None:
        async with child.starting:
            await child.stop(grace_s)

    async def _remove(self, child: PredictorProcess, grace_s: float) -> None:
        async with child.starting:
            pass
        await child.stop(grace_s)
        if child.is_running:
            raise RuntimeUnreachable(f"the system did not end the process of {child.id} in time")
        await self._forget(child)

    async def _forget(self, child: PredictorProcess) -> None:
        self._children.pop(child.id, None)
        await asyncio.to_thread(child.delete)
        self._wakes.wake()

    async def _inspect_all(self) -> None:
        while True:
            await asyncio.sleep(INSPECTION_S)
            for child in tuple(self._children.values()):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._inspect, child)

    def _inspect(self, child: PredictorProcess) -> None:
        limit = child.spec.memory_bytes
        if limit is not None and child.memory_bytes() > limit:
            child.out_of_memory = True
            child.kill()
        child.trim_output(self._settings.output_bytes)


def _refuse_what_cannot_be_kept(spec: ContainerSpec) -> None:
    hint = "leave it out, or configure a container engine"
    if spec.cpus is not None:
        raise ContainerRefused(f"a process cannot be held to {spec.cpus:g} cpus: {hint}")
    if spec.memory_bytes is not None and sys.platform != "linux":
        raise ContainerRefused(f"memory can be limited on Linux only: {hint}")
