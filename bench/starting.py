"""`trillium up`, when it is not the first time: how long to its first answer, and its processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.checking import flowers
from bench.processes import START_S, Started, answered, free_port, python, running, started
from bench.systems.known import METHOD, probabilities, request
from bench.systems.naive import LABELS

CALLS = 2000
"""Before memory is looked at; it has stopped growing by then."""
_SERVICES = frozenset({"aggregator", "predictor", "predictor.template"})
"""What answers requests, and the process that predictors are forked from."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start, until the first answer."""

    took_s: float
    processes: tuple[Started, ...]
    pss_bytes: int
    """Of the aggregator, its predictors and their template, once they have answered some calls."""


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
        took_s = time.perf_counter() - began
        at_first = tuple(started(pids))
        return Start(took_s, at_first, _settled_pss_bytes(f"127.0.0.1:{port}", pids))


def _settled_pss_bytes(address: str, pids: Sequence[int]) -> int:
    """Memory of the services when all classes have answered `CALLS` requests."""
    body = request(flowers(1))
    deadline = time.monotonic() + 2 * START_S
    # The first answer may be of fewer classes: those that the controller has told of by then.
    while probabilities(answered(address, METHOD, body)).shape[1] < len(LABELS):
        _wait(deadline, f"{address} does not answer every class")
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(METHOD)
        for _ in range(CALLS):
            call(body, timeout=START_S)
    while True:
        found = [each for each in started(pids) if each.name in _SERVICES]
        # The run that follows a start has a predictor of its own for a moment.
        if [each.name for each in found].count("predictor") == len(LABELS):
            return sum(each.pss_bytes for each in found)
        _wait(deadline, "there is not one predictor for each class")


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(what)
    time.sleep(0.05)
