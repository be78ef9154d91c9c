"""The goals that name a peer."""

from __future__ import annotations

from bench.goals import Goal, cpu, rps

PEER_GOALS = (
    Goal(
        "c16 CPU a request / Triton's ensemble",
        lambda m: m.ratio(cpu, "c16", "trillium", "triton"),
        1,
        0.7,
    ),
    Goal("c64 rps / PyTriton", lambda m: m.ratio(rps, "c64", "trillium", "pytriton"), 2.5, 5),
)
