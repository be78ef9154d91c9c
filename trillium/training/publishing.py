"""Puts finished artifacts in place so that nobody ever reads half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def publish(artifacts: Mapping[Path, bytes], output: Path) -> None:
    """Put every artifact in place, each whole or not at all, once all are safely on disk.

    Raises:
        OSError: `output` cannot be made or written; every artifact in it is whole, old or new.
    """
    output.mkdir(parents=True, exist_ok=True)
    # Inside `output`, as a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(dir=output, prefix=".training-") as staging:
        for path, content in artifacts.items():
            with Path(staging, path.name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in artifacts:
            Path(staging, path.name).replace(path)
