"""At most one controller may run the predictors of a store as its own child processes.

Each of two would take the other's children for vanished and replace them for ever. Controllers that
share a container engine see the same containers, and there may be any number of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trillium.server.process import StartFailed


@contextmanager
def sole(store: str, database: str) -> Iterator[None]:
    """Hold the store's lock inside the context; the system lets go of it when this process dies.

    `store` is a URI as in the config. Raises StartFailed if another controller has the lock.
    """
    path = lock_file(store, database)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartFailed(f"the lock {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        text = f"another controller, which holds {path}, runs this store's predictors as its own"
        raise StartFailed(
            f"{text} processes; stop it, or run both with --runtime=docker"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def lock_file(store: str, database: str) -> Path:
    """Where the lock of a store is: next to a SQLite file; for a MongoDB among this machine's
    temporary files, by the names of its hosts and of the database.

    So of a MongoDB it is only known what this user runs on this machine.
    """
    if store.startswith("sqlite:"):
        path = Path(store.removeprefix("sqlite:")).resolve()
        return path.with_name(f"{path.name}.lock")
    match = re.match(r"[^:]+://(?:[^@/]*@)?([^/?]*)", store)
    hosts = sorted((match.group(1) if match else store).lower().split(","))
    digest = hashlib.sha256("\n".join([*hosts, database]).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"trillium-{os.getuid()}-{digest}.lock"
