"""Several aggregator processes on one port: the kernel gives each new connection to one of them.

The process that was asked for holds the port, starts the workers, starts anew those that die, and
ends them all when it is stopped. It serves nothing itself and never loads gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from trillium.server import programs
from trillium.server.children import ChildProcess, how_it_ended
from trillium.server.doors import check_reach
from trillium.server.process import EXIT_FAILED, EXIT_USAGE, StartFailed
from trillium.waking import first_of

from .config import PROGRAM, AggregatorConfig

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""A worker that dies is started again after a pause that doubles up to this, and is the first again
after a worker that lived longer than it."""
KILL_S = 5.0
"""A worker that has not ended this long after its drain time is killed."""


async def supervise(
    config: AggregatorConfig, arguments: Sequence[str], stopped: asyncio.Event
) -> None:
    """Keep `config.workers` workers with the command line `arguments` up until `stopped` is set.

    Raises StartFailed when the port is taken or a worker cannot start, and then leaves none.
    """
    async with AsyncExitStack() as stack:
        address = stack.enter_context(_held(config.listen))
        command = (
            *programs.command(PROGRAM, *arguments),
            *("--workers=1", "--shares-port=yes", f"--listen={address}"),
            f"--parent-pid={os.getpid()}",
        )
        commands = [command] * config.workers
        if config.metrics_listen is not None:
            folder = stack.enter_context(TemporaryDirectory(prefix="trillium-workers-"))
            paths = [str(Path(folder) / f"{number}.sock") for number in range(config.workers)]
            commands = [(*command, f"--metrics-listen=unix:{path}") for path in paths]
            await stack.enter_async_context(_told_together(config, paths))
        log.info("workers start", extra={"address": address, "count": config.workers})
        try:
            async with asyncio.TaskGroup() as group:
                for each in commands:
                    group.create_task(_keep(each, stopped, config.drain_s + KILL_S))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures


@asynccontextmanager
async def _told_together(config: AggregatorConfig, paths: Sequence[str]) -> AsyncIterator[None]:
    """Serve the metrics of the workers, who serve them at these paths, as those of one server."""
    assert config.metrics_listen is not None
    check_reach(config, config.metrics_listen, has_tls=False)
    from prometheus_client import CollectorRegistry

    from trillium.server.metrics import serving_metrics

    from .worker_metrics import WorkerMetrics

    registry = CollectorRegistry()
    registry.register(WorkerMetrics(paths))
    async with serving_metrics(config.metrics_listen, registry):
        yield


async def _keep(command: Sequence[str], stopped: asyncio.Event, end_s: float) -> None:
    """Have one worker until `stopped` is set."""
    pause_s = FIRST_PAUSE_S
    while not stopped.is_set():
        began = time.monotonic()
        status = await _one(command, stopped, end_s)
        if stopped.is_set():
            return
        lived_s = time.monotonic() - began
        if status in (EXIT_FAILED, EXIT_USAGE) and lived_s < LONGEST_PAUSE_S:
            raise StartFailed("a worker could not start; its own words stand above")
        log.warning("worker died", extra={"reason": how_it_ended(status)})
        if lived_s > LONGEST_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        await first_of(stopped.wait(), timeout_s=pause_s * random.uniform(0.8, 1.2))
        pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


async def _one(command: Sequence[str], stopped: asyncio.Event, end_s: float) -> int:
    """Start a worker; returns its exit status once it has ended, by itself or by `stopped`."""
    worker = ChildProcess()
    await worker.start(*command, environment=programs.environment())
    try:
        await first_of(worker.ended(), stopped.wait())
    finally:
        await worker.stop(end_s)
    return await worker.ended()


@contextmanager
def _held(listen: str) -> Iterator[str]:
    """Hold the port of `listen`, so that nobody but our workers gets it; answers its address.

    The socket never listens, so the kernel gives it no connection. It is bound alone, which fails
    when anybody else has the port, and may be joined only after that. Raises StartFailed.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        held = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartFailed(f"cannot listen on {listen}: {error}") from error
    with held:
        try:
            held.bind(place)
        except OSError as error:
            text = f"cannot listen on {listen}: {error.strerror}"
            raise StartFailed(f"{text}; choose another --listen or stop what is there") from error
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield f"{host}:{held.getsockname()[1]}"
