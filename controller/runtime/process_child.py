"""One predictor as a child process: its start, its end, its output and its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from controller.runtime.port import Container, ContainerSpec, ContainerState
from controller.runtime.process_template import Forked, Template
from trillium.process import start_child

KILLED_S = 5.0
"""How long the system may take to end a process that was killed."""


class Child:
    """One attempt: a process that is started once, and what is left of it."""

    def __init__(self, id: str, spec: ContainerSpec, folder: Path) -> None:
        self.id = id
        self.spec = spec
        self.starting = asyncio.Lock()
        """Held while it is being started."""
        self.out_of_memory = False
        self._socket = folder / f"{id[:16]}.sock"
        self._output = folder / f"{id[:16]}.log"
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._terminated = False

    @property
    def address(self) -> str:
        """Where it listens, or will: known before it starts, and no other's ever after."""
        return f"unix:{self._socket}"

    @property
    def is_started(self) -> bool:
        """Whether there is or was a process."""
        return self._process is not None

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.returncode is None

    def seen(self, server: str) -> Container:
        """It as the port tells it."""
        code = self._process.returncode if self._process else None
        state = ContainerState.RUNNING if self.is_running else ContainerState.EXITED
        return Container(
            id=self.id,
            deployment=self.spec.deployment,
            slot=self.spec.slot,
            attempt=self.spec.attempt,
            state=state if self.is_started else ContainerState.STARTING,
            address=self.address if self.is_running else "",
            server=server,
            exit_code=128 - code if code is not None and code < 0 else code,
            out_of_memory=self.out_of_memory,
        )

    async def start(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        """Start it, in a session of its own, which a Ctrl-C in ours does not reach. Raises OSError.

        The calling thread must live as long as the child should: the child is told of the death of
        the thread that started it, not of its process's.
        """
        async with self._opened_output() as output:
            self._process = await start_child(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    async def fork(self, template: Template, arguments: Sequence[str]) -> bool:
        """Start it as a fork of `template`, otherwise as `start`; False if there is no template."""
        async with self._opened_output() as output:
            self._process = await template.fork(arguments, output)
        return self.is_started

    @asynccontextmanager
    async def _opened_output(self) -> AsyncIterator[int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        output = await asyncio.to_thread(os.open, self._output, flags, 0o600)
        try:
            yield output
        finally:
            os.close(output)

    async def ended(self) -> None:
        """Return when its process has ended and was reaped."""
        assert self._process is not None
        await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Have it drain and end; after `grace_s`, kill it and all that it started. Bounded."""
        if not self.is_running:
            return
        if not self._terminated:
            # Once only: a predictor takes a second one as "at once".
            self._terminated = True
            self._signal(signal.SIGTERM)
        await self._within(grace_s)
        self.kill()
        await self._within(KILLED_S)

    def kill(self) -> None:
        """End it, and all that it started, at once; one that has ended stays as it is."""
        if self.is_running and self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), timeout_s)

    def _signal(self, number: int) -> None:
        if self.is_running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def memory_bytes(self) -> int:
        """Memory of its own that it uses now, swap included and code that it shares with others
        not; 0 if it has ended. Linux only."""
        if not self.is_running or self._process is None:
            return 0
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return 0
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        return sum(int(sizes.get(key, "0").split()[0]) * 1024 for key in ("RssAnon", "VmSwap"))

    def trim_output(self, limit_bytes: int) -> None:
        """If its output is longer than `limit_bytes`, keep the last half of that.

        The child goes on writing meanwhile; what it writes between the reading and the cutting is
        lost.
        """
        try:
            # Appending, as the child does, so that neither writes over the other.
            descriptor = os.open(self._output, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) > limit_bytes:
                file.seek(-(limit_bytes // 2), os.SEEK_END)
                kept = file.read().partition(b"\n")[2]
                file.truncate(0)
                file.write(kept)

    def last_lines(self, count: int, limit_bytes: int) -> str:
        """The last lines of its output, from its last `limit_bytes`; empty if it was deleted."""
        try:
            with self._output.open("rb") as file:
                file.seek(-min(limit_bytes, file.seek(0, os.SEEK_END)), os.SEEK_END)
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-count:]) if count > 0 else ""

    def delete(self) -> None:
        """Delete its output and its socket."""
        self._output.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
