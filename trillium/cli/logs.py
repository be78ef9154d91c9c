"""`trillium logs`: what the servers that `trillium up` started have logged."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from trillium.server.process import StartFailed

LOOK_AGAIN_S = 0.2
_BLOCK_BYTES = 2**16


def logs_in(state: Path, name: str) -> list[Path]:
    """The logs with `name` in their names, all of them if it is empty. Raises StartFailed."""
    found = sorted((state / "logs").glob("*.log"))
    chosen = [path for path in found if name in path.stem]
    if not chosen:
        there = ", ".join(path.stem for path in found) or "no log"
        raise StartFailed(f"{state} has no log of {name or 'any server'}: it has {there}")
    return chosen


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, read from its end."""
    with path.open("rb") as file:
        file.seek(0, 2)
        position, tail = file.tell(), b""
        while position and tail.count(b"\n") <= count:
            step = min(_BLOCK_BYTES, position)
            position -= step
            file.seek(position)
            tail = file.read(step) + tail
    lines = tail.decode(errors="replace").splitlines()
    return lines[-count:] if count else []


def followed(paths: list[Path]) -> Generator[tuple[str, str]]:
    """Each further line of the logs with the name of its server, until the iterator is closed."""
    files: dict[Path, BinaryIO] = {}
    parts = dict.fromkeys(paths, b"")
    try:
        for path in paths:
            files[path] = path.open("rb")
            files[path].seek(0, 2)
        while True:
            idle = True
            for path, file in files.items():
                *lines, parts[path] = (parts[path] + file.read(_BLOCK_BYTES)).split(b"\n")
                for line in lines:
                    idle = False
                    yield path.stem, line.decode(errors="replace")
            if idle:
                time.sleep(LOOK_AGAIN_S)
    finally:
        for file in files.values():
            file.close()
