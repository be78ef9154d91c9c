"""The folder in which `trillium up` keeps what a restart resumes, and its logs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trillium.process import StartFailed


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder, and keep every other process from it inside the context.

    Two controllers of one store would each miss the other's predictors. Raises StartFailed.
    """
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --state") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = f"another `trillium up` keeps its state in {folder}"
        raise StartFailed(f"{text}; stop it or choose another folder with --state") from error


def emptied(log: Path) -> Path:
    """The log, without what an earlier start wrote to it. Raises StartFailed."""
    try:
        log.write_bytes(b"")
    except OSError as error:
        text = f"cannot write to {log}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --state") from error
    return log
