"""Child processes: the one place that starts them, watches them, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

KILL_S = 5.0
"""Maximum time that the system may take to end a process that was killed."""


class Process(Protocol):
    """What an `asyncio.subprocess.Process` and a process forked from a template have in common."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        ...

    async def wait(self) -> int:
        """Its exit status, once it has ended and was reaped."""
        ...

    def send_signal(self, signal: int, /) -> None:
        """Raises ProcessLookupError if it has ended."""
        ...


class ChildProcess:
    """A child of this process, in a session of its own, which a Ctrl-C in ours does not reach.

    It may be started again once it has ended; everything here is about the latest process. The
    thread that starts it must live as long as the child should: the kernel signals a
    child at the end of the thread that started it, not of its process.
    """

    def __init__(self, output: Path | None = None) -> None:
        """Its output is appended to the file `output`, which its owner alone may read; None: it
        goes where ours goes."""
        self._output = output
        self._process: Process | None = None
        self._terminated = False

    @property
    def pid(self) -> int:
        """Process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs, and before the first start."""
        return self._process.returncode if self._process else None

    @property
    def is_started(self) -> bool:
        """Whether there is or was a process."""
        return self._process is not None

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it; `environment` is its whole environment, None for ours. Raises OSError."""
        async with self._opened_output() as output:
            self._process = await start_process(
                *command, stdout=output, stderr=output, env=environment
            )
            self._terminated = False

    async def start_by(self, fork: Callable[[int], Awaitable[Process | None]]) -> bool:
        """Start it by `fork`, which is given the descriptor of its output; False if that answers
        None, and no process was started. Needs an output file. Raises what `fork` raises."""
        async with self._opened_output() as output:
            assert output is not None
            self._process = await fork(output)
            self._terminated = False
        return self.is_started

    async def ended(self) -> int:
        """Wait for its end; its status as in `status`."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Have it drain and end; after `grace_s`, kill it and all that it started. Bounded."""
        if not self.is_running:
            return
        if not self._terminated:
            # Once only: a server takes a second one as "at once".
            self._terminated = True
            self._signal(signal.SIGTERM)
        await self._ended_within(grace_s)
        self.kill()
        await self._ended_within(KILL_S)

    def kill(self) -> None:
        """End it, and all that it started, at once; one that has ended stays as it is."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def last_output(self, limit_bytes: int) -> str:
        """At most the last `limit_bytes` of its output file; empty if there is none."""
        if self._output is None:
            return ""
        try:
            with self._output.open("rb") as file:
                file.seek(-min(limit_bytes, file.seek(0, os.SEEK_END)), os.SEEK_END)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def _ended_within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), timeout_s)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    @asynccontextmanager
    async def _opened_output(self) -> AsyncIterator[int | None]:
        if self._output is None:
            yield None
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        output = await asyncio.to_thread(os.open, self._output, flags, 0o600)
        try:
            yield output
        finally:
            os.close(output)


async def start_process(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a process in a session of its own that reads nothing, unless `options`, which are those
    of `asyncio.create_subprocess_exec`, override that. Raises OSError.

    uvloop runs Python in the new process before it becomes another program. A garbage collection
    there may end objects whose threads it does not have, and grpc.aio's wait for theirs for ever,
    while this process waits for the new one: so none may begin.
    """
    options = {"stdin": asyncio.subprocess.DEVNULL, "start_new_session": True, **options}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return await asyncio.create_subprocess_exec(*command, **options)
    finally:
        if was_enabled:
            gc.enable()


def how_it_ended(status: int) -> str:
    """The end of a process in words, for example "was ended by SIGKILL"."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
