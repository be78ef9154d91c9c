"""Server processes as children: started together, watched, started again, ended to the last one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trillium.cli.ports import HOST, is_free
from trillium.process import StartFailed, start_child

T = TypeVar("T")

START_S = 60.0
"""How long a server may take until it serves: long enough for a machine that is busy."""
GRACE_S = 25.0
"""How long a server may take to stop: its drain of 10 s, that of its predictors, and some."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
EARLY_S = 30.0
"""A process that lived for less than this died early."""
POLL_S = 0.02
_ENDING_S = 0.2
"""How long after its connection broke a child may take to be seen as dead."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, where it will listen on `HOST`, and where its output goes."""

    name: str
    command: tuple[str, ...]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


class Child:
    """One program and the process that runs it at the moment, if any."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the latest process; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def status(self) -> int | None:
        """Exit status of the latest process, negative for a signal; None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start a process in a session of its own, which a Ctrl-C in ours does not reach."""
        with self.program.log.open("ab") as log:
            self._process = await start_child(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Wait for the end of the process; its status as in `status`."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Have it drain and end; kill it, and all that it started, if it takes too long."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), GRACE_S)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it at once; a process that has ended stays as it is."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def until_listening(self) -> None:
        """Wait until a connection to it can be made.

        A channel that finds nobody backs off; a bare connection is tried again at once.
        """
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self.program.port)
            except OSError:
                await asyncio.sleep(POLL_S)
                continue
            writer.close()
            return

    async def only_while_up(self) -> NoReturn:
        """Wait for the end of the process. Raises StartFailed, with what it said last."""
        ending = f"{self.program.name} {how_it_ended(await self.ended())} while starting"
        raise StartFailed(f"{ending}: {last_words(self.program.log)}")


async def keep(child: Child, say: Callable[[str], None]) -> None:
    """Start `child` again whenever it dies, for ever.

    It waits half a second first, and twice as long, up to 30 s, each time that it died early. While
    somebody else listens on its port, it leaves the port to them.
    """
    deaths = 0
    while True:
        began = time.monotonic()
        status = await child.ended()
        deaths = deaths + 1 if time.monotonic() - began < EARLY_S else 1
        delay_s = restart_delay_s(deaths)
        ending = f"{child.program.name} (pid {child.pid}) {how_it_ended(status)}"
        say(f"{ending}; starting it again in {delay_s:g} s")
        await asyncio.sleep(delay_s)
        await _until_free(child.program, say)
        await child.start()
        say(f"{child.program.name} started again (pid {child.pid})")


async def _until_free(program: Program, say: Callable[[str], None]) -> None:
    told = False
    while not is_free(program.port):
        if not told:
            taken = f"port {program.port} has been taken by another process"
            say(f"{taken}; {program.name} is left to it until it ends")
            told = True
        await asyncio.sleep(FIRST_DELAY_S)


def restart_delay_s(deaths: int) -> float:
    """Seconds to wait before a start, after `deaths` (at least 1) early ones in a row."""
    return min(FIRST_DELAY_S * 2.0 ** min(deaths - 1, 10), LONGEST_DELAY_S)


def how_it_ended(status: int) -> str:
    """A process's end in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def last_words(log: Path) -> str:
    """The last line that a process wrote, without its own name or what makes it a line of JSON."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, TypeError, KeyError):
        return re.sub(r"^(controller|aggregator|gateway): ", "", lines[-1])


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of `work` at once. The first failure ends the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def unless_one_ends(children: Sequence[Child], work: Coroutine[Any, Any, T]) -> T:
    """What `work` answers. The end of a child ends it, as StartFailed."""
    tasks = [asyncio.create_task(work)]
    tasks += [asyncio.create_task(child.only_while_up()) for child in children]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done and tasks[0].exception():
            # A child's end says more than the error that it made of the work.
            await asyncio.wait(tasks[1:], timeout=_ENDING_S, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks[1:] if task.done()]
        return await (ended or tasks)[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
