"""Private folders, in which a controller's child processes listen and write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "trillium-"
_LOCK = "lock"
_LONGEST_PATH = 100
"""In bytes. A socket's path may have 107 on Linux and 103 on macOS."""


class PrivateFolder:
    """A new folder that only this user may enter, locked for as long as this process lives.

    Its name is never used again, so an address in it can only ever mean one process.
    """

    def __init__(self, parent: Path | None) -> None:
        """Makes it in `parent`, or where temporary files belong, and deletes those that dead
        controllers of the same user left there. Raises OSError."""
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(0o700, parents=True, exist_ok=True)
        _sweep(parent)
        # Under another name until it is locked: who sweeps just now must not take it for left over.
        new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent)).resolve()
        self.path = new.with_name(new.name.removeprefix("."))
        try:
            if len(os.fsencode(self.path / "0123456789abcdef.sock")) > _LONGEST_PATH:
                raise OSError(f"the path {self.path} is too long for sockets: name a shorter one")
            # Held, not only open: the system lets go of it when this process dies in any way.
            self._lock = os.open(new / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self.path)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Delete it with all that is in it, and let go of the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(parent: Path) -> None:
    """Delete the folders whose lock nobody holds."""
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        # Not mine, or gone since, or held.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
