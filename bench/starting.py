"""How long `trillium up` takes to its first answer, when it is not the first time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.checking import flowers
from bench.processes import answered, free_port, python, running
from bench.systems.known import METHOD, request


def second_starts(models: Path, times: int) -> list[float]:
    """Seconds of each start but the first, which leaves a state to resume."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        return [_start(models, Path(folder)) for _ in range(times + 1)][1:] if times else []


def _start(models: Path, folder: Path) -> float:
    port, controller_port = free_port(), free_port()
    command = python(
        "trillium",
        "up",
        "--models",
        str(models),
        "--state",
        str(folder / "state"),
        "--port",
        str(port),
        "--controller-port",
        str(controller_port),
    )
    began = time.perf_counter()
    with running(command, log=folder / "up.log"):
        answered(f"127.0.0.1:{port}", METHOD, request(flowers(1)))
        return time.perf_counter() - began
