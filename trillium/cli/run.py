"""A run that has ended, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from trillium.controller.v1 import run_service_pb2 as run_pb


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model did on a labelled dataset."""

    accuracy: float
    labels: tuple[str, ...]
    """The class first, then the rest."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows by true label (outer) and told label (inner), in the order of `labels`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    name: str
    model: str
    dataset: str
    row_count: int
    took_s: float
    failure: str
    """Why it did not succeed; empty if it did."""
    evaluation: Evaluation | None
    note: str = ""
    """Why a run that succeeded has no evaluation of a labelled dataset."""


def run_line(run: Run) -> Text:
    """One line on a run that has ended."""
    what = f"{run.name}: {run.model} on the dataset {run.dataset}"
    if run.failure:
        return Text(f"{what}: no result: {run.failure}", style="red")
    done = f"{what}: {run.row_count} rows in {run.took_s:.1f} s"
    if run.evaluation is None:
        return Text.assemble(f"{done}; ", (run.note, "yellow")) if run.note else Text(done)
    return Text.assemble(f"{done}, accuracy ", (f"{run.evaluation.accuracy:.3f}", "bold green"))


def confusion_table(evaluation: Evaluation) -> Table:
    """How many rows of each true class were told to be which."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("true class")
    for label in evaluation.labels:
        table.add_column(f"told {label}", justify="right")
    for place, (label, counts) in enumerate(
        zip(evaluation.labels, evaluation.confusion, strict=True)
    ):
        cells = [
            Text(str(count), style="bold green" if told == place else "red" if count else "dim")
            for told, count in enumerate(counts)
        ]
        table.add_row(label, *cells)
    return table


def of_message(message: run_pb.Run) -> Run:
    """What the controller says of a run."""
    state = run_pb.RunState.Name(message.state).removeprefix("RUN_STATE_").lower()
    succeeded = message.state == run_pb.RUN_STATE_SUCCEEDED
    ended, began = message.end_time.ToNanoseconds(), message.create_time.ToNanoseconds()
    evaluated = message.HasField("evaluation")
    return Run(
        name=message.name,
        model=message.model,
        dataset=message.dataset,
        row_count=message.rows_done,
        took_s=(ended - began) / 1e9,
        failure="" if succeeded else message.detail or f"it has {state}",
        evaluation=_evaluation(message.evaluation) if evaluated else None,
        note=message.detail if succeeded else "",
    )


def _evaluation(message: run_pb.Evaluation) -> Evaluation:
    labels, confusion = tuple(message.labels), tuple(message.confusion)
    return Evaluation(message.accuracy, labels, _in_rows(confusion, len(labels)))


def _in_rows(values: Sequence[int], width: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(values[at : at + width]) for at in range(0, len(values), width))
