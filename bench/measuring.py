"""Rounds of slices: every system under every load, all up at once and all but one idle.

The order of the systems turns round on odd rounds. Only what one round saw is compared: ratios are
taken within a round, and their median over the rounds is what is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from aiohttp import ClientError
from grpc import RpcError

from bench import h2load
from bench.asking import first_answer
from bench.batches import mean_batch, scored
from bench.checking import Reference, check_answer, check_under_load, flowers
from bench.h2load import LOADS, Load, burst
from bench.processes import START_S, Started, usage
from bench.systems.known import Rows, Up

_CALIBRATION_S = 0.5
_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice."""

    round: int
    rps: float
    p50_s: float
    p99_s: float
    cpu_s: float
    """Of the system's processes, for each request."""
    batch: float
    """Requests in a batch, on the average; NaN for a system that tells of none."""


@dataclass(slots=True)
class Measured:
    """Everything that a run has seen."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By system and load."""
    pss_bytes: dict[str, int] = field(default_factory=dict)
    """Of each system's processes, after all rounds."""
    dropped: list[str] = field(default_factory=list)
    """Slices that do not count, and why."""
    absent: dict[str, str] = field(default_factory=dict)
    """Systems that could not be measured, and why."""
    alone_rows_s: dict[int, float] = field(default_factory=dict)
    """ONNX Runtime alone, three models on one thread, by round: rows of 1,024-row batches."""
    checked: dict[str, int] = field(default_factory=dict)
    """Calls under load whose answers were all right, by system."""
    load_average: list[float] = field(default_factory=list)
    """Of the machine, over the last minute, before each round."""
    start_s: list[float] = field(default_factory=list)
    """From `trillium up`, not for the first time, to the first answer."""
    up_pss_bytes: list[int] = field(default_factory=list)
    """Of the services of each of these starts, after some calls."""
    started: Sequence[Started] = ()
    """Its processes at the first answer of the last start."""

    def ratio(self, value: Callable[[Sample], float], load: str, system: str, to: str) -> float:
        """The median over the rounds of a system's value by another's in the same round."""
        ours = {each.round: value(each) for each in self.samples.get((system, load), ())}
        theirs = {each.round: value(each) for each in self.samples.get((to, load), ())}
        both = sorted(ours.keys() & theirs.keys())
        if not both:
            return float("nan")
        return median(ours[each] / theirs[each] for each in both)

    def middle(self, value: Callable[[Sample], float], load: str, system: str) -> float:
        """The median over the rounds."""
        seen = self.samples.get((system, load))
        return median(map(value, seen)) if seen else float("nan")


def measure(
    systems: Sequence[Up],
    reference: Reference,
    *,
    loads: Sequence[Load],
    rounds: int,
    slice_s: float,
    folder: Path,
    say: Callable[[str], None],
) -> Measured:
    """Check every system, measure it in rounds, and check it again.

    Raises AssertionError or NoAnswer for a first answer that is wrong or does not come.
    """
    measured = Measured()
    rows = {load.rows: flowers(load.rows) for load in loads}
    lengths: dict[tuple[str, int], int] = {}
    for up in systems:
        for each in rows.values():
            answer = first_answer(up, up.request(each), START_S)
            check_answer(up, each, answer, reference)
            lengths[up.name, len(each)] = len(answer)
    systems = _right(systems, reference, measured)
    counts: dict[tuple[str, str], int] = {}
    for load in loads:
        for up in systems:
            try:
                counts[up.name, load.name] = _calibrated(up, load, rows, lengths, slice_s, folder)
            except h2load.Failed as failure:
                measured.dropped.append(f"all rounds, {up.name}, {load.name}: {failure}")
    for number in range(rounds):
        measured.load_average.append(_load_average())
        order = systems if number % 2 == 0 else systems[::-1]
        for load in loads:
            for up in order:
                if (up.name, load.name) not in counts:
                    continue
                _slice(up, load, number, rows, lengths, counts, measured, folder)
        if 1024 in rows:
            measured.alone_rows_s[number] = _alone(reference, rows[1024], min(slice_s, 1.0))
        say(f"round {number + 1} of {rounds}: {_progress(measured, systems)}")
    for up in systems:
        measured.pss_bytes[up.name] = usage(up.pids).pss_bytes
    _right(systems, reference, measured)
    return measured


def _right(systems: Sequence[Up], reference: Reference, measured: Measured) -> list[Up]:
    """Those that answer right under load; the others lose their figures, and the run goes on."""
    right = []
    for up in systems:
        try:
            calls = asyncio.run(check_under_load(up, reference))
        except (AssertionError, RpcError, ClientError, TimeoutError) as error:
            said = f"under load: {type(error).__name__}: {error}"
            measured.absent[up.name] = " ".join(said.split())[:500]
            for load in LOADS:
                measured.samples.pop((up.name, load.name), None)
        else:
            measured.checked[up.name] = measured.checked.get(up.name, 0) + calls
            right.append(up)
    return right


def _calibrated(
    up: Up,
    load: Load,
    rows: dict[int, Rows],
    lengths: dict[tuple[str, int], int],
    slice_s: float,
    folder: Path,
) -> int:
    """How many requests fill a slice; the bursts that tell it warm the system up, too."""
    asked = up.request(rows[load.rows])
    count, rate = 64, 0.0
    for _ in range(_WARM_UPS + 1):
        seen = burst(
            up.address,
            up.method,
            asked,
            lengths[up.name, load.rows],
            load,
            count,
            folder,
            plain_http=up.plain_http,
        )
        rate = seen.requests / seen.took_s
        count = max(16, round(rate * _CALIBRATION_S))
    return max(16, round(rate * slice_s))


def _slice(
    up: Up,
    load: Load,
    number: int,
    rows: dict[int, Rows],
    lengths: dict[tuple[str, int], int],
    counts: dict[tuple[str, str], int],
    measured: Measured,
    folder: Path,
) -> None:
    asked = up.request(rows[load.rows])
    try:
        batches = scored(up.predictors)
        before = usage(up.pids).cpu_s
        seen = burst(
            up.address,
            up.method,
            asked,
            lengths[up.name, load.rows],
            load,
            counts[up.name, load.name],
            folder,
            plain_http=up.plain_http,
        )
        cpu = usage(up.pids).cpu_s - before
        batch = mean_batch(batches, scored(up.predictors), load.rows)
    except h2load.Failed as failure:
        measured.dropped.append(f"round {number}, {up.name}, {load.name}: {failure}")
        return
    p50, p99 = np.percentile(seen.latencies_s, (50, 99))
    rps = seen.requests / seen.took_s
    sample = Sample(number, rps, float(p50), float(p99), cpu / seen.requests, batch)
    measured.samples.setdefault((up.name, load.name), []).append(sample)


def _alone(reference: Reference, rows: Rows, seconds: float) -> float:
    """Rows a second of the three models in this process, on one thread."""
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        reference.probabilities(rows)
        batches += 1
    return batches * len(rows) / (time.perf_counter() - began)


def _load_average() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


def _progress(measured: Measured, systems: Sequence[Up]) -> str:
    told: list[Any] = []
    for up in systems:
        samples = measured.samples.get((up.name, "c64"))
        told += [f"{up.name} {samples[-1].rps:.0f}/s"] if samples else []
    return "at c64 " + ", ".join(told)
