"""`trillium up`, when it is not the first time: how long to its first answer, and its processes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.checking import flowers
from bench.processes import Started, answered, free_port, python, running, started
from bench.systems.known import METHOD, request


@dataclass(frozen=True, slots=True)
class Start:
    """One start, until the first answer."""

    took_s: float
    processes: tuple[Started, ...]


def second_starts(models: Path, times: int) -> list[Start]:
    """Each start but the first, which leaves a state to resume."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        return [_start(models, Path(folder)) for _ in range(times + 1)][1:] if times else []


def _start(models: Path, folder: Path) -> Start:
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
    with running(command, log=folder / "up.log") as pids:
        answered(f"127.0.0.1:{port}", METHOD, request(flowers(1)))
        return Start(time.perf_counter() - began, tuple(started(pids)))
