"""The folder in which `trillium up` keeps what a restart resumes, and its logs."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trillium.private import FILE_MODE, close_to_others, keep_to_owner, make_file, make_folder
from trillium.process import StartFailed


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder, and keep every other process from it inside the context.

    Two controllers of one store would each miss the other's predictors. Raises StartFailed.
    """
    keep_to_owner()
    try:
        _make(folder)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --state") from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    """Make the folder, or close what an earlier start has left open to others.

    A folder that holds other things, such as a whole project, keeps its mode: what is ours in it is
    closed, one by one.
    """
    is_ours = not folder.exists() or (folder / "lock").exists() or not any(folder.iterdir())
    if is_ours and not (folder.exists() and folder.stat().st_mode & stat.S_ISVTX):
        make_folder(folder)
    make_folder(folder / "logs")
    for path in (folder / "lock", *folder.glob("controller.db*"), *folder.glob("logs/*.log")):
        close_to_others(path)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = f"another `trillium up` keeps its state in {folder}"
        raise StartFailed(f"{text}; stop it or choose another folder with --state") from error


def emptied(log: Path) -> Path:
    """The log, without what an earlier start wrote to it. Raises StartFailed."""
    try:
        make_file(log)
        log.write_bytes(b"")
    except OSError as error:
        text = f"cannot write to {log}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --state") from error
    return log
