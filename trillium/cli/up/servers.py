"""The servers of `trillium up` as child processes: started, watched, restarted and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn

from trillium.cli.ports import HOST, is_free
from trillium.cli.state import emptied
from trillium.cli.up.plan import Plan, Program
from trillium.server import programs
from trillium.server.children import ChildProcess, how_it_ended
from trillium.server.process import StartFailed

REGISTERING_S = 300.0
"""Maximum time until the controller serves: it tries every new artifact of the folder first."""
START_S = 60.0
"""Maximum time until a server or deployment serves; long enough for a busy machine."""
GRACE_S = 25.0
"""Maximum time for a server to stop: its drain of 10 s, that of its predictors, and a margin."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
EARLY_S = 30.0
"""A process that lived for less than this died early."""
POLL_S = 0.02
_ENDING_S = 0.2
"""Maximum time between the loss of a connection to a child and the notice of the child's end."""


class Child(ChildProcess):
    """One program and the process that runs it at the moment, if any."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.log)
        self.program = program

    @property
    def address(self) -> str:
        return self.program.address

    async def launch(self) -> None:
        """Start a process that runs the program."""
        await self.start(*self.program.command, environment=programs.environment())

    async def until_listening(self) -> None:
        """Wait until a connection to it can be made.

        A channel that fails to connect backs off; a bare connection is retried at once.
        """
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self.program.port)
            except OSError:
                await asyncio.sleep(POLL_S)
                continue
            writer.close()
            return

    async def fail_when_ended(self) -> NoReturn:
        """Wait for the end of the process. Raises StartFailed with its last line of output."""
        ending = f"{self.program.name} {how_it_ended(await self.ended())} while starting"
        raise StartFailed(f"{ending}: {last_words(self.program.log)}")


class Servers:
    """The servers of a plan: the controller, which runs the predictors, the aggregator, and the
    gateway if the plan has one."""

    def __init__(self, plan: Plan) -> None:
        self.began = time.monotonic()
        self.controller = Child(plan.controller())
        self.aggregator = Child(plan.aggregator())
        self.gateways = [Child(program) for program in plan.gateways()]
        # The controller comes first: the others may need it from their start to their end.
        self.children = (self.controller, self.aggregator, *self.gateways)

    def __str__(self) -> str:
        return f"controller ({self.controller.address}) and aggregator ({self.aggregator.address})"

    async def launch(self) -> None:
        """Start all, each with an empty log. Raises StartFailed."""
        for child in self.children:
            emptied(child.program.log)
            await child.launch()

    async def until_models_are_registered(self) -> None:
        """Wait until the controller serves, which it does once it has tried the models.

        Raises StartFailed.
        """
        try:
            async with asyncio.timeout(REGISTERING_S):
                await self.controller.until_listening()
        except TimeoutError:
            text = f"the controller did not serve within {REGISTERING_S:g} s"
            raise StartFailed(f"{text}; its log: {self.controller.program.log}") from None

    async def until_listening(self) -> None:
        """Wait until connections to all can be made."""
        for child in self.children:
            await child.until_listening()

    @asynccontextmanager
    async def all_running(self) -> AsyncIterator[None]:
        """Raises StartFailed in the block when a server ends."""
        async with task_group() as group:
            watchers = [group.create_task(child.fail_when_ended()) for child in self.children]
            try:
                yield
            except Exception:
                # The end of a server explains more than the error that it caused in the block.
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait(watchers, timeout=_ENDING_S, return_when=first)
                raise
            finally:
                for watcher in watchers:
                    watcher.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make the first signal cancel the calling task, and the second one kill everything."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        signalled = False

        def on_signal(number: int) -> None:
            nonlocal signalled
            if signalled:
                for child in self.children:
                    child.kill()
                os._exit(128 + number)
            signalled = True
            if task is not None:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal, number)
        yield

    async def stop(self) -> None:
        """Stop all, callers before the servers that they call, so that calls can finish."""
        for child in reversed(self.children):
            await child.stop(GRACE_S)


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose first failure is raised as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def keep(child: Child, say: Callable[[str], None]) -> NoReturn:
    """Restart `child` whenever it ends, until cancelled.

    The first delay is 0.5 s; it doubles, up to 30 s, each time that the child died early. While
    another process has the port, the restart waits.
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
        await child.launch()
        say(f"{child.program.name} started again (pid {child.pid})")


async def _until_free(program: Program, say: Callable[[str], None]) -> None:
    waiting = False
    while not is_free(program.port):
        if not waiting:
            taken = f"port {program.port} has been taken by another process"
            say(f"{taken}; {program.name} starts again once the port is free")
            waiting = True
        await asyncio.sleep(FIRST_DELAY_S)


def restart_delay_s(deaths: int) -> float:
    """Seconds to wait before a start, after `deaths` (at least 1) early ones in a row."""
    return min(FIRST_DELAY_S * 2.0 ** min(deaths - 1, 10), LONGEST_DELAY_S)


def last_words(log: Path) -> str:
    """The message in the last line of a log, which may be JSON, without the name of the server."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, TypeError, KeyError):
        return re.sub(r"^(controller|aggregator|gateway): ", "", lines[-1])
