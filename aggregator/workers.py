"""Several aggregator processes on one port: the kernel gives each new connection to one of them.

The process that was asked for holds the port, starts the workers, starts anew those that die, and
ends them all when it is told to end. It serves nothing itself and never loads gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aggregator.config import PROGRAM, AggregatorConfig
from trillium.process import EXIT_FAILED, EXIT_USAGE, StartFailed, start_child
from trillium.waking import first_of

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""A worker that dies is started again after a pause that doubles up to this, and is the first again
after a worker that lived longer than it."""
KILL_S = 5.0
"""A worker that has not ended so long after its drain time is killed."""


async def supervise(
    config: AggregatorConfig, arguments: Sequence[str], stopped: asyncio.Event
) -> None:
    """Keep `config.workers` workers with the command line `arguments` up until `stopped` is set.

    Raises StartFailed when the port is taken or a worker cannot start, and then leaves none.
    """
    with _held(config.listen) as address:
        command = (
            *(sys.executable, "-m", PROGRAM, *arguments),
            *("--workers=1", "--shares-port=yes", f"--listen={address}"),
            f"--parent-pid={os.getpid()}",
        )
        log.info("workers start", extra={"address": address, "count": config.workers})
        workers = [
            asyncio.create_task(_keep(command, stopped, config.drain_s + KILL_S))
            for _ in range(config.workers)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            stopped.set()
            await asyncio.gather(*workers, return_exceptions=True)


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
        log.warning("a worker died", extra={"status": status})
        if lived_s > LONGEST_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        await first_of(stopped.wait(), timeout_s=pause_s * random.uniform(0.8, 1.2))
        pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


async def _one(command: Sequence[str], stopped: asyncio.Event, end_s: float) -> int:
    """Start a worker; answers its exit status once it has ended, by itself or as `stopped` says."""
    worker = await start_child(*command, stdin=asyncio.subprocess.DEVNULL)
    await first_of(worker.wait(), stopped.wait())
    if worker.returncode is None:
        worker.send_signal(signal.SIGTERM)
        await first_of(worker.wait(), timeout_s=end_s)
    if worker.returncode is None:
        log.warning("a worker does not end and is killed", extra={"pid": worker.pid})
        worker.kill()
    return await worker.wait()


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
