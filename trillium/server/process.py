"""What every server process does besides serving: starts, waits for a signal, ends in order."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from trillium.server.config import ConfigError
from trillium.server.private import keep_to_owner

_PR_SET_PDEATHSIG = 1

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


class StartFailed(Exception):
    """A server cannot start. Its text is for a person: the reason, and how to fix it."""


def run(program: str, main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a server's coroutine to its end on uvloop, if there is one; answers the exit status.

    ConfigError and StartFailed end it with sentences on standard error and no stack. Import gRPC in
    `main` only: it reads what may be logged when it is imported.
    """
    settle_environment()
    # Whoever can open a socket of ours is taken for this user, and state is nobody else's business.
    keep_to_owner()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    except ConfigError as error:
        for problem in error.problems:
            print(f"{program}: {problem}", file=sys.stderr)
        print(f"{program}: --help lists what may be set", file=sys.stderr)
        return EXIT_USAGE
    except StartFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def settle_environment() -> None:
    """Set what gRPC reads when it is imported, unless somebody has set it."""
    # Errors are reported as sentences; gRPC's own lines would come between them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # gRPC would run handlers around every fork, which is not safe next to an event loop. Forks here
    # are all followed by exec at once, or done before gRPC begins.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # gRPC's event engine hands each message through one thread more, which doubles the wake-ups.
    # Experiments that need these two are off with them; both exist in grpcio 1.76 to 1.85.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # uvloop has no build for every platform; asyncio's own loop is slower.
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def stop_requested(signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> asyncio.Event:
    """The event that is set when one of `signals` arrives. A second one ends the process at once.

    Call it first thing, so that a signal during start is not lost.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_signal(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    return stopped


def end_with_parent(parent_pid: int) -> None:
    """Have SIGTERM sent to this process when its parent, which must be `parent_pid`, dies.

    Linux only; elsewhere it does nothing, and whoever starts processes must end them. Raises
    StartFailed when the parent is gone already.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise StartFailed(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        raise StartFailed(f"the parent process {parent_pid} is gone")
