"""What flame graphs of py-spy's say: the share of each part of a process, by the code on top."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

_FRAME = re.compile(
    r"<title>(?P<name>[^<]*) \([\d,]+ samples?, [\d.]+%\)</title>"
    r'<rect [^>]*?y="(?P<level>\d+)"[^>]*? fg:x="(?P<start>\d+)" fg:w="(?P<width>\d+)"'
)
_WAITING = "(concurrent/futures/thread.py:"
"""Threads of a pool that wait for work, which py-spy does not always know from those that have."""
_PARTS = {
    "event loop and gRPC, compiled": ("Runner.run (asyncio/",),
    "gRPC's polling thread": ("Thread.run (threading.py:",),
    "gRPC, Python": ("(grpc/",),
    "ONNX Runtime": ("(onnxruntime/",),
    "NumPy": ("(numpy/",),
    "Trillium": ("(aggregator/", "(predictor/", "(trillium/"),
}
"""By what the name of the frame holds; py-spy sees compiled code as the Python that called it."""
REST = "rest of Python"


@dataclass(frozen=True, slots=True)
class _Frame:
    name: str
    level: int
    """Of the picture; a frame's callees are on the next one."""
    start: int
    end: int
    """In samples."""


def shares(picture: str) -> Mapping[str, float]:
    """Parts of all samples in an SVG of py-spy's, the largest first; pool threads that wait left
    out. Raises ValueError if there are none."""
    on_top = Counter(dict.fromkeys((*_PARTS, REST), 0))
    frames = [
        _Frame(html.unescape(each["name"]), int(each["level"]), start, start + int(each["width"]))
        for each in _FRAME.finditer(picture)
        for start in [int(each["start"])]
    ]
    levels = sorted({frame.level for frame in frames})
    below = dict(pairwise(levels))
    for frame in frames:
        callees = sum(
            other.end - other.start
            for other in frames
            if other.level == below.get(frame.level)
            and frame.start <= other.start
            and other.end <= frame.end
        )
        if _WAITING not in frame.name:
            on_top[_part(frame.name)] += frame.end - frame.start - callees
    total = on_top.total()
    if not total:
        raise ValueError("a flame graph without samples")
    return {name: count / total for name, count in on_top.most_common()}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The shares of several pictures by their names, side by side, in per cent."""
    lines = [f"| % | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for part in (*_PARTS, REST):
        told = " | ".join(f"{100 * each[part]:.0f}" for each in found.values())
        lines.append(f"| {part} | {told} |")
    return "\n".join(lines)


def _part(name: str) -> str:
    return next(
        (part for part, marks in _PARTS.items() if any(map(name.__contains__, marks))), REST
    )
