"""Real server processes: started, watched, signalled, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
"""How long a start may take on a machine that many share."""


class Server:
    """One `python -m …`, whose log is read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """All that it has said so far."""
        return "\n".join(self.lines)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, within_s: float = 60.0) -> int:
        """Wait for its end; answers the exit status."""
        async with asyncio.timeout(within_s):
            # Who stops waiting must not stop the reading: the next one waits for it again.
            await asyncio.shield(self._reading)
            return await self.process.wait()

    async def serves(self) -> str:
        """Wait until it says that it serves; answers its address."""
        address = await self.serves_or_ends()
        assert address, self.stderr
        return address

    async def serves_or_ends(self) -> str:
        """As `serves`; empty if it ends before."""
        async with asyncio.timeout(START_S):
            while True:
                has_ended = self.process.returncode is not None
                for line in self.log:
                    if line["message"] == "serving":
                        return str(line["address"])
                if has_ended:
                    return ""
                await asyncio.sleep(0.01)

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())


@asynccontextmanager
async def started(
    *arguments: str, network: Path | None = None, **environment: str
) -> AsyncIterator[Server]:
    """`python -m ARGUMENTS`; ended at the end, by force if need be, and seen to be gone.

    With `network`, the file of a network namespace, it runs there; from here it is reached by a
    unix socket only.
    """
    enter = [] if network is None else ["nsenter", f"--net={network}"]
    process = await asyncio.create_subprocess_exec(
        *enter,
        sys.executable,
        "-m",
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    server = Server(process)
    try:
        yield server
    finally:
        if process.returncode is None:
            server.signal(signal.SIGCONT)
            server.signal(signal.SIGTERM)
        try:
            await server.ended()
        except TimeoutError:
            process.kill()
            await server.ended()
            raise
        assert not is_alive(process.pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def output_of(*command: str) -> str:
    """What a program prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        printed, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return printed.decode()


async def grpcurl(*arguments: str) -> str:
    """What grpcurl prints, called as a person calls it."""
    return await output_of(str(Path(sys.executable).with_name("grpcurl")), "-plaintext", *arguments)


def predictor(model: Path, port: int) -> Sequence[str]:
    """The command line of a predictor."""
    return ("predictor", "--model", str(model), "--listen", f"127.0.0.1:{port}")


def aggregator(addresses: Sequence[tuple[str, str]], *more: str) -> Sequence[str]:
    """The command line of an aggregator on any port."""
    flags = [f"--predictor={label}={address}" for label, address in addresses]
    return ("aggregator", "--listen", "127.0.0.1:0", *flags, *more)
