"""docs/metrics.md has every metric with its labels and its question, and no other one."""

from __future__ import annotations

import re

import aggregator.figures
import controller.figures
import gateway.edge
import predictor.figures
from tests.docs.pages import ROOT
from trillium.rpc import methods
from trillium.server.figures import Measure

MEASURES: dict[str, tuple[Measure, ...]] = {
    "Every gRPC server": methods.MEASURES,
    "Aggregator": aggregator.figures.MEASURES,
    "Predictor": predictor.figures.MEASURES,
    "Controller": controller.figures.MEASURES,
    "Gateway": gateway.edge.MEASURES,
}


def test_the_page_has_every_metric_and_no_other_one() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", text))
    for name, measures in MEASURES.items():
        rows = re.findall(r"(?m)^\| `([a-z_]+)` \| ?(.*?) \| (.*) \|$", sections[name])
        shown = [(row[0], tuple(re.findall("`([a-z_]+)`", row[1])), row[2]) for row in rows]
        assert shown == [(each.name, each.labels, each.help) for each in measures], name


def test_names_are_unique_and_have_their_units() -> None:
    every = [each for measures in MEASURES.values() for each in measures]
    assert len({each.name for each in every}) == len(every)
    for each in every:
        assert each.name.endswith("_total") is (each.kind == "counter"), each.name
        if each.kind == "histogram":
            assert each.name.endswith(("_seconds", "_rows")), each.name
