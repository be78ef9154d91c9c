"""Processes that are stopped by a signal: they hold their connections and answer nothing."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

WITHIN_S = 20.0
POLL_S = 0.001


def freeze(pid: int) -> None:
    """Send SIGSTOP and return once every thread has stopped.

    The signal reaches threads one by one: until the last has stopped, a server may still answer.
    Raises TimeoutError.
    """
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + WITHIN_S
    while not is_frozen(pid):
        if time.monotonic() > until:
            raise TimeoutError(f"process {pid} has not stopped within {WITHIN_S:g} s")
        time.sleep(POLL_S)


def is_frozen(pid: int) -> bool:
    """Whether a SIGSTOP has reached the last of its threads, or it has ended."""
    states = []
    for each in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # A thread may end.
            states.append("\nState:\tT" in each.read_text())
    return all(states)
