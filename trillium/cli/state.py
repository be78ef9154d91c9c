"""The folder in which `trillium up` keeps what a restart resumes, and its logs."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trillium.server.private import (
    FILE_MODE,
    close_to_others,
    keep_to_owner,
    make_file,
    make_folder,
)
from trillium.server.process import StartFailed


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
    closed, one by one. Raises StartFailed if another user has a hand in it.
    """
    folder = folder.resolve()
    logs = folder / "logs"
    was_there = folder.exists()
    is_ours = not was_there or (folder / "controller.db").exists() or not any(folder.iterdir())
    if is_ours and not (was_there and folder.stat().st_mode & stat.S_ISVTX):
        make_folder(folder)
    if is_ours or not logs.exists():
        make_folder(logs)
    files = [*folder.glob("lock"), *folder.glob("controller.db*")]
    if is_ours:
        files += logs.glob("*.log")
    _check_owner(folder, logs, *files)
    for path in files:
        close_to_others(path)


def _check_owner(*paths: Path) -> None:
    """Raises StartFailed for what another user could change, and for a link, which may lead to what
    is not to be written."""
    for path in paths:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
            what = "is a link" if stat.S_ISLNK(found.st_mode) else "belongs to another user"
            raise StartFailed(f"{path} {what}; remove it or choose another folder with --state")


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
        # A link may lead to what is not to be emptied.
        os.close(os.open(log, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        text = f"cannot write to {log}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --state") from error
    return log
