"""Files and folders that their owner alone may read: state, logs and sockets."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_OTHERS = 0o077


def keep_to_owner() -> None:
    """Have whatever this process and its children make from now on belong to their user alone."""
    os.umask(_OTHERS)


def make_folder(folder: Path) -> None:
    """Make a folder, or close one that is ours to others. Raises OSError."""
    folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    close_to_others(folder)


def make_file(path: Path) -> None:
    """Make an empty file, or close one that is ours to others. Raises OSError.

    One that is there is not opened: closing it would end the locks that this process has on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    except FileExistsError:
        close_to_others(path)


def close_to_others(path: Path) -> None:
    """Take the rights of all others from a file or folder of this user, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
            return
        if found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
