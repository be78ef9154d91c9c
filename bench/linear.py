"""`python -m bench.linear`: what a call costs as rows, classes and replicas grow, and cliffs in it.

Each step has an ensemble of its own of synthetic models, as real processes and real sockets.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from bench.asking import first_answer
from bench.checking import flowers
from bench.h2load import Load, burst
from bench.processes import ROOT, end_on_sigterm, free_port, python, running, usage
from bench.report import machine
from bench.systems.known import METHOD, Rows, Up, labels, probabilities, request

START_S = 300.0
STEEPEST = 1.5
"""A cliff is a step to the next point on which the cost of a unit rises by more than this factor.
The points lie a factor of two to four apart, and a linear cost, with or without a fixed part, makes
a unit no dearer."""

_TOLERANCE = 1e-5
_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Point:
    """What was seen at one size."""

    size: int
    """Rows in a call, classes, or replicas of each class."""
    rows_s: float
    """Rows answered in a second, each by all classes."""
    pss_bytes: int
    """Of all processes together."""
    unit_s: float
    """Seconds for one row, or for one row of one class where the classes grow."""
    unit_cpu_s: float
    """Seconds of CPU for the same, of all processes; busy neighbours change it less."""
    unit_bytes: float
    """Memory of all processes where the rows grow, else of one process."""


def cliffs(points: Sequence[Point]) -> list[str]:
    """Where a unit becomes dearer by more than STEEPEST from one point to the next, in words."""
    found = []
    for before, after in pairwise(points):
        for what, old, new in (
            ("time", before.unit_s, after.unit_s),
            ("memory", before.unit_bytes, after.unit_bytes),
        ):
            if new > STEEPEST * old:
                text = f"{what} of a unit is {new / old:.2f} times that at {before.size}"
                cpu = after.unit_cpu_s / before.unit_cpu_s
                found.append(f"{after.size}: {text}, its CPU {cpu:.2f} times")
    return found


def weights(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a synthetic class: [4, 1] and [1]."""
    random = np.random.default_rng(label)
    return random.normal(0, 0.3, (4, 1)).astype(np.float32), np.zeros(1, np.float32)


def expected(rows: Rows, classes: int) -> Rows:
    """Shape [n, classes]."""
    columns = [1 / (1 + np.exp(-(rows @ weights(label)[0])[:, 0])) for label in range(classes)]
    return np.stack(columns, axis=1).astype(np.float32)


def write_model(label: int, path: Path) -> None:
    """A logistic regression as ONNX, the class's probability its only output."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    slope, shift = weights(label)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "slope"], ["product"]),
            helper.make_node("Add", ["product", "shift"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probabilities"]),
        ],
        "synthetic",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(slope, "slope"), numpy_helper.from_array(shift, "shift")],
    )
    opset = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@contextmanager
def ensemble(classes: int, replicas: int, folder: Path) -> Iterator[Up]:
    """An aggregator and `classes` times `replicas` predictors behind unix sockets."""
    commands, words = [], []
    for label in range(classes):
        model = folder / f"class{label}.onnx"
        write_model(label, model)
        for replica in range(replicas):
            socket = f"unix:{folder}/{label}-{replica}.sock"
            said = ["--class-label", f"class{label}", "--positive-column", "0"]
            commands.append(python("predictor", "--listen", socket, "--model", str(model), *said))
            words += ["--predictor", f"class{label}={socket}"]
    address = f"127.0.0.1:{free_port()}"
    front = python("aggregator", "--listen", address, *words)
    with running(front, *commands, log=folder / "ensemble.log") as pids:
        yield Up("trillium", address, tuple(pids), METHOD, request, probabilities, labels)


def checked_size(up: Up, rows: Rows, classes: int) -> int:
    """Bytes of the answer for these rows; raises AssertionError for a wrong one."""
    answer = first_answer(up, request(rows), START_S)
    told, right = probabilities(answer), expected(rows, classes)
    assert told.shape == right.shape, f"answered shape {told.shape}, not {right.shape}"
    assert np.abs(told - right).max() <= _TOLERANCE, "answered wrong probabilities"
    return len(answer)


def rate(
    up: Up, rows: Rows, size: int, load: Load, series: Series, folder: Path
) -> tuple[float, float]:
    """Rows a second, and seconds of CPU for a row: medians of some slices after a calibration."""
    message, count, seen, spent = request(rows), 64, [], []
    for _ in range(_WARM_UPS + series.slices):
        before = usage(up.pids).cpu_s
        each = burst(up.address, up.method, message, size, load, count, folder)
        spent.append((usage(up.pids).cpu_s - before) / each.requests / len(rows))
        calls_s = each.requests / each.took_s
        count = max(16, round(calls_s * series.slice_s))
        seen.append(calls_s * len(rows))
    return median(seen[_WARM_UPS:]), median(spent[_WARM_UPS:])


@dataclass(frozen=True, slots=True)
class Series:
    """How long each point is looked at."""

    slices: int
    slice_s: float


def measured(what: str, size: int, series: Series) -> Point:
    """A point of one of SIZES; raises AssertionError when an answer is wrong."""
    classes = size if what == "classes" else 3
    replicas = size if what == "replicas" else 1
    rows = flowers({"rows": size, "classes": 64, "replicas": 1}[what])
    load = Load("c64", 8, 8) if what == "replicas" else Load("c1", 1, 1, len(rows))
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        folder = Path(scratch)
        with ensemble(classes, replicas, folder) as up:
            answer = checked_size(up, rows, classes)
            rows_s, cpu_s = rate(up, rows, answer, load, series, folder)
            used = usage(up.pids)
    share = classes if what == "classes" else 1
    unit_bytes = used.pss_bytes / (1 if what == "rows" else used.processes)
    return Point(size, rows_s, used.pss_bytes, 1 / rows_s / share, cpu_s / share, unit_bytes)


SIZES = {
    "rows": (1, 4, 16, 64, 256, 1024, 4096),
    "classes": (3, 10, 30, 100),
    "replicas": (1, 2, 4, 8),
}
"""Rows in a call, with three classes and one caller; classes, with 64 rows in a call and one
caller; replicas of three classes, with 64 callers and one row in a call."""


def _say(what: str, point: Point) -> None:
    memory = point.pss_bytes / 1e6
    cpu = f"{1e6 * point.unit_cpu_s:.1f} µs of CPU a unit"
    print(
        f"{point.size} {what}: {point.rows_s:.0f} rows/s, {cpu}, {memory:.0f} MB", file=sys.stderr
    )


def plot(what: str, points: Sequence[Point], picture: Path) -> None:
    """Rows a second and memory against the size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = [point.size for point in points]
    axes[0].plot(sizes, [point.rows_s for point in points], marker="o")
    axes[0].set(title="rows a second", yscale="log")
    axes[1].plot(sizes, [point.pss_bytes / 1e6 for point in points], marker="o")
    axes[1].set(title="memory (PSS) of all processes, MB", ylim=(0, None))
    for axis in axes:
        axis.set(xscale="log", xlabel=what)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def main() -> int:
    """Measure what is wanted; the answer is how many of them have a cliff."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--slices", type=int, default=5)
    parser.add_argument("--slice-s", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    wanted = parser.parse_args()
    wanted.output.mkdir(parents=True, exist_ok=True)
    told = {}
    for what in wanted.only:
        points = []
        for size in (each for each in SIZES[what] if each <= (wanted.largest or each)):
            points.append(measured(what, size, Series(wanted.slices, wanted.slice_s)))
            _say(what, points[-1])
        plot(what, points, wanted.output / f"linear-{what}.png")
        steep = cliffs(points)
        told[what] = {"points": [asdict(point) for point in points], "cliffs": steep}
        print(f"{what}: {'; '.join(steep) or 'no cliff'}")
    text = json.dumps({"machine": machine(), "steepest": STEEPEST, **told}, indent=1)
    (wanted.output / "linear.json").write_text(text + "\n")
    return sum(bool(told[what]["cliffs"]) for what in told)


if __name__ == "__main__":
    sys.exit(main())
