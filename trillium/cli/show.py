"""Output for people: tables and lines, colored on a terminal only."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trillium.cli.calling import calls, digits
from trillium.cli.plain import PlainTable, as_written
from trillium.cli.run import ShownRun, confusion_table, run_line
from trillium.client.answers import Metadata, PredictorState, PredictorStatus
from trillium.model.description import Example

PLAIN_WIDTH = 2000
"""Columns of output that goes to no terminal: nothing is cut or folded there."""
_MOST_FEATURE_COLUMNS = 5
_MOST_CLASS_COLUMNS = 10
_STATE_STYLES = {
    PredictorState.READY: "green",
    PredictorState.CONNECTING: "yellow",
    PredictorState.UNAVAILABLE: "red",
    PredictorState.MISMATCHED: "red",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A row and its score."""

    features: tuple[float, ...]
    true_label: str = ""
    """Empty if unknown."""
    label: str = ""
    """Empty if undecided."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of each class, in [0, 1]."""
    took_ms: float | None = None
    error: str = ""
    """Why there is no score; empty if there is one."""


class Screen:
    """Standard output. What servers and files have named is shown as text: no markup, no control
    characters."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH)

    def say(self, line: str) -> None:
        """Print a line of progress."""
        self._print(Text(line))

    def event(self, line: str) -> None:
        """Print what happened, with the time of day."""
        self._print(Text.assemble((time.strftime("%H:%M:%S "), "dim"), line))

    def scores(self, name: str, feature_names: Sequence[str], scores: Sequence[Score]) -> None:
        """Print a table of scores of the ensemble `name`."""
        if not scores:
            self.say(f"the models of {name} have no example to score")
            return
        table = score_table(feature_names, scores, ticks=self._console.encoding.startswith("utf"))
        held_out = any(score.true_label for score in scores)
        what = "rows that no model has seen in training" if held_out else "the sample of the models"
        count = len(scores[0].features)
        size = f", {count} features each" if count > _MOST_FEATURE_COLUMNS else ""
        table.title = f"{name}: {what}{size}"
        self._print("", table)
        for score in scores:
            if score.error:
                self.problem(f"no answer: {score.error}")

    def run(self, run: ShownRun) -> None:
        """Print a run that has ended, with how well the model did."""
        self._print("", run_line(run))
        if run.evaluation is not None:
            self._print(confusion_table(run.evaluation))

    def problem(self, line: str) -> None:
        """Print what went wrong."""
        self._print(Text(line, style="red"))

    def how_to_call(
        self,
        aggregator: str,
        controller: str,
        examples: Sequence[Example],
        gateways: Sequence[str] = (),
        ensemble: str = "",
    ) -> None:
        """Print how to call what listens at these addresses, to be copied."""
        features = examples[0].features if examples else ()
        for title, lines in calls(aggregator, controller, features, gateways, ensemble).items():
            self._print("", Text(title, style="bold"))
            for line in lines:
                self._print(Text(f"  {line}"))
        self._print("")

    def text(self, text: Text) -> None:
        """Print a styled line."""
        self._print(text)

    def json(self, value: Any) -> None:
        """Print a value as JSON on one line, flushed so that a pipe delivers it at once."""
        print(json.dumps(value, default=_plain), flush=True)

    def table(self, table: Table) -> None:
        """Print a table."""
        self._print(table)

    def _print(self, *things: str | Text | Table) -> None:
        # A closed terminal must not keep the processes from being stopped.
        with contextlib.suppress(OSError):
            for thing in things:
                shown = as_written(thing) if isinstance(thing, Text) else thing
                self._console.print(shown, soft_wrap=isinstance(thing, Text))


class JsonLines(Screen):
    """Standard output for programs: one JSON object per line, each with its kind as `event`."""

    def say(self, line: str) -> None:
        """What is being done."""
        self._emit("progress", message=line)

    def event(self, line: str) -> None:
        """What happened to a deployment or a process, and when."""
        self._emit("change", time=datetime.now(UTC), message=line)

    def scores(self, name: str, feature_names: Sequence[str], scores: Sequence[Score]) -> None:
        """The examples of the ensemble `name`, and what was answered."""
        names = list(feature_names)
        rows = [asdict(score) for score in scores]
        self._emit("scores", ensemble=name, feature_names=names, scores=rows)

    def run(self, run: ShownRun) -> None:
        """A run that has ended."""
        self._emit("run", **asdict(run))

    def problem(self, line: str) -> None:
        """What went wrong."""
        self._emit("problem", message=line)

    def how_to_call(
        self,
        aggregator: str,
        controller: str,
        examples: Sequence[Example],
        gateways: Sequence[str] = (),
        ensemble: str = "",
    ) -> None:
        """That everything is up, and where."""
        self._emit("up", aggregator=aggregator, controller=controller, gateways=list(gateways))

    def _emit(self, what: str, **facts: Any) -> None:
        with contextlib.suppress(OSError):
            self.json({"event": what, **facts})


def score_table(
    feature_names: Sequence[str], scores: Sequence[Score], *, ticks: bool = True
) -> Table:
    """Rows, every class's probability, the label, and milliseconds; a column each if they fit.

    With `ticks`, a mark shows whether the label is the true one.
    """
    timed = any(score.took_ms is not None for score in scores)
    labels = list(dict.fromkeys(label for score in scores for label in score.probabilities))
    table = PlainTable()
    for name in feature_headings(feature_names, len(scores[0].features)):
        table.add_column(name, justify="right", style="cyan")
    spread = labels if len(labels) <= _MOST_CLASS_COLUMNS else ["most probable"]
    for label in spread:
        table.add_column(label, justify="right", no_wrap=True)
    labelled = any(score.label or score.error for score in scores)
    if labelled:
        table.add_column("label")
    if timed:
        table.add_column("ms", justify="right", style="dim")
    for number, score in enumerate(scores, 1):
        cells: list[str | Text] = [*_feature_cells(score.features, number)]
        cells += _probability_cells(score, labels)
        cells += [_label_cell(score, ticks)] if labelled else []
        cells += [_milliseconds(score.took_ms)] if timed else []
        table.add_row(*cells)
    return table


def _milliseconds(took_ms: float | None) -> str:
    if took_ms is None:
        return ""
    # One digit after the point below what is rounded to 10.0, which would widen the table.
    return f"{took_ms:.{1 if took_ms < 9.95 else 0}f}"


def feature_headings(names: Sequence[str], count: int) -> list[str]:
    """A heading for each feature, or a single one for the row's number if they are too many."""
    if not 0 < count <= _MOST_FEATURE_COLUMNS:
        return ["row"]
    known = names if len(names) == count else [f"feature {index}" for index in range(count)]
    return [name.replace("_", " ").replace(" ", "\n") for name in known]


def _feature_cells(features: Sequence[float], number: int) -> list[str]:
    """The cells below `feature_headings`."""
    if not 0 < len(features) <= _MOST_FEATURE_COLUMNS:
        return [str(number)]
    return [str(float(digits(value))) for value in features]


def _probability_cells(score: Score, labels: Sequence[str]) -> list[Text]:
    values = score.probabilities
    if len(labels) > _MOST_CLASS_COLUMNS:
        best = sorted(values, key=lambda label: -values[label])[:3]
        return [Text(", ".join(f"{label} {values[label]:.3f}" for label in best))]
    return [
        Text(
            f"{values[label]:.3f}" if label in values else "",
            style="bold" if label == score.label else "dim",
        )
        for label in labels
    ]


def _label_cell(score: Score, ticks: bool) -> Text:
    if score.error or not score.label:
        return Text("no answer" if score.error else "undecided", style="red")
    if not score.true_label:
        return Text(score.label, style="bold")
    if score.label == score.true_label:
        return Text(f"\u2713 {score.label}" if ticks else score.label, style="bold green")
    wrong = f"{score.label}, not {score.true_label}"
    return Text(f"\u2717 {wrong}" if ticks else wrong, style="bold red")


def predictor_table(statuses: Sequence[PredictorStatus]) -> Table:
    """Every predictor: class, address, state, the model's digest, since when, and why; its ensemble
    first, if there are several."""
    table = PlainTable()
    several = len({each.ensemble for each in statuses}) > 1
    if several:
        table.add_column("ensemble", no_wrap=True)
    for heading in ("class", "address", "state", "model digest", "since", "detail"):
        whole = heading not in ("address", "detail")
        table.add_column(heading, no_wrap=whole, overflow="fold")
    for each in statuses:
        table.add_row(
            *((each.ensemble,) if several else ()),
            each.class_label,
            each.address,
            Text(each.state.value, style=_STATE_STYLES.get(each.state, "")),
            each.model_digest[:12],
            moment(each.since),
            Text(each.detail),
        )
    return table


def moment(when: datetime) -> str:
    """The local time, with the day unless that is today."""
    local = when.astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def metadata_line(address: str, serving: bool, metadata: Metadata | None) -> Text:
    """One line on the ensemble at `address`."""
    state = ("serving", "green") if serving else ("not serving", "red")
    if metadata is None:
        return Text.assemble(address, " is ", state, "; no predictor has been reached yet")
    classes, features = metadata.class_labels, metadata.feature_names
    return Text.assemble(
        (metadata.ensemble or "an ensemble without a name", "bold"),
        f" at {address} is ",
        state,
        f"; {_count(len(metadata.class_labels), 'class', 'classes')}: {', '.join(classes)}",
        f"; {_count(metadata.feature_count, 'feature', 'features')}",
        f": {', '.join(features)}" if 0 < len(features) <= _MOST_FEATURE_COLUMNS else "",
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def score_json(score: Score) -> dict[str, Any]:
    """A row's answer for programs."""
    probabilities = {"probabilities": score.probabilities}
    if not score.label:
        return probabilities
    return {
        "label": score.label,
        "probability": score.probabilities[score.label],
        **probabilities,
    }


def status_json(
    address: str,
    serving: bool,
    metadata: Metadata | None,
    predictors: Sequence[PredictorStatus],
) -> dict[str, Any]:
    """The state of an ensemble for programs."""
    return {
        "address": address,
        "serving": serving,
        "metadata": None if metadata is None else asdict(metadata),
        "predictors": [asdict(each) for each in predictors],
    }


def _plain(value: object) -> str:
    match value:
        case Enum():
            return str(value.value)
        case datetime():
            return value.isoformat()
        case _:
            raise TypeError(f"{value!r} has no form in JSON")
