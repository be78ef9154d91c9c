"""Runs that have ended, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from trillium.cli.plain import PlainTable
from trillium.controller.v1 import run_service_pb2 as run_pb


@dataclass(frozen=True, slots=True)
class ShownEvaluation:
    """Scores of a model on a labelled dataset."""

    accuracy: float
    labels: tuple[str, ...]
    """The class of the model, then "rest"."""
    confusion: tuple[tuple[int, ...], ...]
    """Row counts by true label (outer) and predicted label (inner), in the order of `labels`."""


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run that has ended."""

    name: str
    model: str
    dataset: str
    row_count: int
    took_s: float
    failure: str
    """Why it did not succeed; empty if it did."""
    evaluation: ShownEvaluation | None
    note: str = ""
    """Why a run that succeeded has no evaluation of a labelled dataset."""


def run_line(run: ShownRun) -> Text:
    """A run that has ended, in one line."""
    what = f"{run.name.removeprefix('runs/')}: {run.model} on {run.dataset}"
    if run.failure:
        return Text(f"{what} failed: {run.failure}", style="red")
    done = f"{what}: {run.row_count} rows in {run.took_s:.1f} s"
    if run.evaluation is None:
        return Text.assemble(f"{done}; ", (run.note, "yellow")) if run.note else Text(done)
    return Text.assemble(f"{done}, accuracy ", (f"{run.evaluation.accuracy:.3f}", "bold green"))


def confusion_table(evaluation: ShownEvaluation) -> Table:
    """Row counts by true class and predicted class."""
    return confusion_of(evaluation.labels, evaluation.confusion)


def confusion_of(labels: Sequence[str], confusion: Iterable[Iterable[int]]) -> Table:
    """Row counts by true class and predicted class, both with these labels."""
    table = PlainTable()
    table.add_column("true class")
    for label in labels:
        table.add_column(f"predicted {label}", justify="right")
    for row, (label, counts) in enumerate(zip(labels, confusion, strict=True)):
        cells = [
            Text(str(count), style="bold green" if column == row else "red" if count else "dim")
            for column, count in enumerate(counts)
        ]
        table.add_row(label, *cells)
    return table


def of_message(message: run_pb.Run) -> ShownRun:
    """A run from its message."""
    state = run_pb.RunState.Name(message.state).removeprefix("RUN_STATE_").lower()
    succeeded = message.state == run_pb.RUN_STATE_SUCCEEDED
    ended, began = message.end_time.ToNanoseconds(), message.create_time.ToNanoseconds()
    evaluated = message.HasField("evaluation")
    return ShownRun(
        name=message.name,
        model=message.model,
        dataset=message.dataset,
        row_count=message.rows_done,
        took_s=(ended - began) / 1e9,
        failure="" if succeeded else message.detail or state,
        evaluation=_evaluation(message.evaluation) if evaluated else None,
        note=message.detail if succeeded else "",
    )


def _evaluation(message: run_pb.Evaluation) -> ShownEvaluation:
    labels, confusion = tuple(message.labels), tuple(message.confusion)
    return ShownEvaluation(message.accuracy, labels, _in_rows(confusion, len(labels)))


def _in_rows(values: Sequence[int], width: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(values[at : at + width]) for at in range(0, len(values), width))
