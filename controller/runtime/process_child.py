"""One predictor as a child process: its start, its end, its output and its memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from trillium.server.children import ChildProcess

from .port import Container, ContainerSpec, ContainerState
from .process_template import Template


class PredictorProcess(ChildProcess):
    """One attempt: a process that is started once, and what is left of it."""

    def __init__(self, id: str, spec: ContainerSpec, folder: Path) -> None:
        self.id = id
        self.spec = spec
        self.starting = asyncio.Lock()
        """Held while it is being started."""
        self.out_of_memory = False
        self._socket = folder / f"{id[:16]}.sock"
        self._log = folder / f"{id[:16]}.log"
        super().__init__(self._log)

    @property
    def address(self) -> str:
        """Where it listens, or will: known before it starts, and no other's ever after."""
        return f"unix:{self._socket}"

    def seen(self, server: str) -> Container:
        """It in the port's terms."""
        code = self.status
        state = ContainerState.RUNNING if self.is_running else ContainerState.EXITED
        return Container(
            id=self.id,
            deployment=self.spec.deployment,
            instance=self.spec.instance,
            attempt=self.spec.attempt,
            state=state if self.is_started else ContainerState.STARTING,
            address=self.address if self.is_running else "",
            server=server,
            exit_code=128 - code if code is not None and code < 0 else code,
            out_of_memory=self.out_of_memory,
        )

    async def fork(self, template: Template, arguments: Sequence[str]) -> bool:
        """Start it as a fork of `template`, otherwise as `start`; False if there is no template."""
        return await self.start_by(lambda output: template.fork(arguments, output))

    def memory_bytes(self) -> int:
        """Memory of its own that it uses now, swap included and code that it shares with others
        not; 0 if it has ended. Linux only."""
        if not self.is_running:
            return 0
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
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
            descriptor = os.open(self._log, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
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
        lines = self.last_output(limit_bytes).splitlines()
        return "\n".join(lines[-count:]) if count > 0 else ""

    def delete(self) -> None:
        """Delete its output and its socket."""
        self._log.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
