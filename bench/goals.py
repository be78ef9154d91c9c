"""The goals, and whether a run has met them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.batches import CALLERS, LEAST_SHARE
from bench.measuring import Measured, Sample


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, what it must reach, and what would be better still."""

    name: str
    value: Callable[[Measured], float]
    reach: float
    dream: float
    unit: str = ""

    def verdict(self, measured: Measured) -> tuple[float, str]:
        """The figure, and "dream", "reach", "missed", or "not measured"."""
        value = self.value(measured)
        if math.isnan(value):
            return value, "not measured"
        higher = self.dream > self.reach
        for name, bound in (("dream", self.dream), ("reach", self.reach)):
            if value >= bound if higher else value <= bound:
                return value, name
        return value, "missed"


def rps(sample: Sample) -> float:
    """Requests a second."""
    return sample.rps


def cpu(sample: Sample) -> float:
    """Seconds of CPU for each request."""
    return sample.cpu_s


def p50(sample: Sample) -> float:
    """Median latency in seconds."""
    return sample.p50_s


def batch(sample: Sample) -> float:
    """Requests in a batch, on the average."""
    return sample.batch


def _alone(measured: Measured) -> float:
    ours = {
        each.round: each.rps * 1024 for each in measured.samples.get(("trillium", "rows1024"), ())
    }
    both = ours.keys() & measured.alone_rows_s.keys()
    if not both:
        return math.nan
    return median(ours[each] / measured.alone_rows_s[each] for each in both)


def _memory(measured: Measured) -> float:
    return median(measured.up_pss_bytes) / 1e6 if measured.up_pss_bytes else math.nan


def _start(measured: Measured) -> float:
    return median(measured.start_s) if measured.start_s else math.nan


def _batch_share(measured: Measured, load: str) -> float:
    return measured.middle(batch, load, "trillium") / CALLERS[load]


GOALS = (
    Goal("c64 rps / bare echo", lambda m: m.ratio(rps, "c64", "trillium", "echo"), 0.8, 1.0),
    Goal("c64 rps / naive", lambda m: m.ratio(rps, "c64", "trillium", "naive"), 5, 8),
    Goal(
        "c64 CPU a request / naive",
        lambda m: m.ratio(cpu, "c64", "trillium", "naive"),
        0.2,
        0.12,
    ),
    Goal("c1 p50 / bare echo's", lambda m: m.ratio(p50, "c1", "trillium", "echo"), 2.5, 1.8),
    *(
        Goal(f"{load} mean batch / callers", partial(_batch_share, load=load), LEAST_SHARE, 0.9)
        for load in CALLERS
    ),
    Goal("1,024 rows in a call: rows/s / ONNX Runtime alone", _alone, 0.5, 0.8),
    Goal("memory of the four services of `trillium up` (PSS)", _memory, 150, 110, "MB"),
    Goal("second start to first answer", _start, 5, 2, "s"),
)
"""Those that need a peer are not here: bench-peers measures them."""
