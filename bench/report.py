"""What a run leaves: a table, a file for programs, and plots."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.goals import GOALS, Goal, batch, cpu, p50, rps
from bench.h2load import Load
from bench.measuring import Measured, Sample
from bench.processes import ROOT

_PACKAGES = ("grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")


def write(
    measured: Measured,
    systems: Sequence[str],
    loads: Sequence[Load],
    folder: Path,
    *,
    goals: Sequence[Goal] = GOALS,
    tuned: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
    **settings: Any,
) -> str:
    """Write results.json, table.md and the plots into `folder`; answers the table.

    `tuned` tells what is not left at its defaults in a system, `beside` which systems are compared
    with another one than the naive, and with which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = machine() | settings
    table = _table(measured, systems, loads, facts, goals)
    table += _beside(measured, beside or {}, loads)
    if tuned:
        notes = [f"| {name} | {note} |" for name, note in tuned.items()]
        table += "\n".join(["", "| system | its form |", "|---|---|", *notes, ""])
    (folder / "table.md").write_text(table)
    samples = [
        {"system": system, "load": load, **asdict(each)}
        for (system, load), found in measured.samples.items()
        for each in found
    ]
    verdicts = [
        {"goal": goal.name, "reach": goal.reach, "dream": goal.dream, "value": value, "is": verdict}
        for goal in goals
        for value, verdict in [goal.verdict(measured)]
    ]
    everything = {
        "machine": facts,
        "goals": verdicts,
        "samples": samples,
        "pss_bytes": measured.pss_bytes,
        "alone_rows_s": measured.alone_rows_s,
        "checked_calls": measured.checked,
        "dropped": measured.dropped,
        "absent": measured.absent,
        "tuned": tuned,
        "load_average": measured.load_average,
        "start_s": measured.start_s,
        "up_pss_bytes": measured.up_pss_bytes,
        "started": [asdict(each) for each in measured.started],
    }
    text = json.dumps(_finite(everything), indent=1)
    (folder / "results.json").write_text(text + "\n")
    _plots(measured, systems, loads, folder)
    return table


def machine() -> dict[str, Any]:
    """What the run was made on and of."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "cpu": f"{len(cpus)} x {cpus[0] if cpus else 'unknown'}",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case _:
            return value


def _table(
    measured: Measured,
    systems: Sequence[str],
    loads: Sequence[Load],
    facts: dict[str, Any],
    goals: Sequence[Goal],
) -> str:
    lines = [f"{name}: {value}  " for name, value in facts.items()]
    lines += ["", "| goal | reach | dream | this run | |", "|---|---|---|---|---|"]
    for goal in goals:
        value, verdict = goal.verdict(measured)
        shown = "" if math.isnan(value) else f"{value:.3g}"
        sign = "≥" if goal.dream > goal.reach else "≤"
        bounds = [f"{sign} {bound:g} {goal.unit}" for bound in (goal.reach, goal.dream)]
        lines.append(f"| {goal.name} | {' | '.join(bounds)} | {shown} {goal.unit} | {verdict} |")
    lines += [
        "",
        "Medians over the rounds, ratios within a round; a batch is the mean number of requests.",
        "",
    ]
    lines += [
        "| load | system | rps | / naive | p50 ms | p99 ms | CPU ms/request | / naive | batch |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for load in loads:
        for system in systems:
            if (system, load.name) not in measured.samples:
                lines.append(f"| {load.name} | {system} | none | | | | | | |")
                continue
            mean = measured.middle(batch, load.name, system)
            lines.append(
                f"| {load.name} | {system} | {measured.middle(rps, load.name, system):.0f} "
                f"| {measured.ratio(rps, load.name, system, 'naive'):.2f} "
                f"| {1e3 * measured.middle(p50, load.name, system):.2f} "
                f"| {1e3 * measured.middle(_p99, load.name, system):.2f} "
                f"| {1e3 * measured.middle(cpu, load.name, system):.3f} "
                f"| {measured.ratio(cpu, load.name, system, 'naive'):.2f} "
                f"| {'' if math.isnan(mean) else f'{mean:.1f}'} |"
            )
    lines += ["", "| system | PSS MB | answers checked under load |", "|---|---|---|"]
    for system in systems:
        pss = measured.pss_bytes.get(system, 0) / 1e6
        lines.append(f"| {system} | {pss:.0f} | {measured.checked.get(system, 0)} |")
    if measured.started:
        lines += ["", "Processes at the first answer of the last second start:", ""]
        lines += ["| process | started after s | CPU s | PSS MB |", "|---|---|---|---|"]
        lines += [
            f"| {each.name} | {each.after_s:.2f} | {each.cpu_s:.2f} | {each.pss_bytes / 1e6:.0f} |"
            for each in measured.started
        ]
    if measured.absent:
        lines += ["", "| not measured | why |", "|---|---|"]
        lines += [f"| {name} | {reason} |" for name, reason in measured.absent.items()]
    lines += ["", f"Slices that do not count: {len(measured.dropped)}.", *measured.dropped, ""]
    return "\n".join(line.rstrip() if line.startswith("|") else line for line in lines)


def _beside(measured: Measured, beside: Mapping[str, str], loads: Sequence[Load]) -> str:
    """A table of what each system takes and gives by what the other one does."""
    if not beside:
        return ""
    lines = ["", "| load | system / other | rps | p99 | CPU a request | PSS MB more |"]
    lines += ["|---|---|---|---|---|---|"]
    for load in loads:
        for system, other in beside.items():
            ratios = [measured.ratio(each, load.name, system, other) for each in (rps, _p99, cpu)]
            more = measured.pss_bytes.get(system, 0) - measured.pss_bytes.get(other, 0)
            told = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {load.name} | {system} / {other} | {told} | {more / 1e6:.0f} |")
    return "\n".join([*lines, ""])


def _p99(sample: Sample) -> float:
    return sample.p99_s


def _plots(measured: Measured, systems: Sequence[str], loads: Sequence[Load], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    single = [load for load in loads if load.rows == 1]
    at_once = [load.connections * load.streams for load in single]
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    panels = (
        (axes[0, 0], "requests a second", rps, 1.0),
        (axes[0, 1], "p50 (line) and p99 (dotted), ms", p50, 1e3),
        (axes[1, 0], "CPU for each request, ms", cpu, 1e3),
    )
    for axis, title, value, scale in panels:
        for colour, system in enumerate(systems):
            points = [scale * measured.middle(value, load.name, system) for load in single]
            axis.plot(at_once, points, marker="o", label=system, color=f"C{colour}")
            if value is p50:
                tails = [scale * measured.middle(_p99, load.name, system) for load in single]
                axis.plot(at_once, tails, linestyle=":", color=f"C{colour}")
        axis.set(title=title, xscale="log", xlabel="requests at once")
        axis.set_yscale("linear" if value is rps else "log")
        axis.set_xticks(at_once, [str(each) for each in at_once])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    memory = [measured.pss_bytes.get(system, 0) / 1e6 for system in systems]
    axes[1, 1].bar(systems, memory, color=[f"C{index}" for index in range(len(systems))])
    axes[1, 1].set(title="memory (PSS), MB")
    figure.savefig(folder / "systems.png", dpi=120)
    pyplot.close(figure)
