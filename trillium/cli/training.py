"""`trillium models train`: from a labelled table to the models of an ensemble."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    Decimal,
    Delimiter,
    Header,
    Json,
    Patience,
    controller_at,
    dialect_of,
    fail,
    note,
    sentences,
)
from trillium.tables.columns import listed

if TYPE_CHECKING:
    from trillium.tables.dialect import Dialect
    from trillium.training import Method, Progress, Table, Trained, TrainedModel


_MOST_CLASSES = 20
"""A table of more would fit on no screen."""


@dataclass(frozen=True, slots=True)
class TableOrder:
    """An ensemble to train."""

    ensemble: str
    table: Table
    method: Method
    accuracy_floor: float
    output: Path
    class_weight: str = ""
    calibrate: bool = False
    report: Path | None = None

    def is_there(self) -> bool:
        """Whether every artifact is a file that is not empty."""
        from trillium.training import artifact_paths

        paths = artifact_paths(self.output, self.ensemble, self.table.class_labels)
        return all(path.is_file() and path.stat().st_size > 0 for path in paths)

    def train(self, progress: Progress) -> Trained:
        """Train it; raises the errors of `trillium.training.train`."""
        from trillium.training import train_table

        return train_table(
            self.table,
            ensemble=self.ensemble,
            output=self.output,
            method=self.method,
            class_weight=self.class_weight,
            calibrate=self.calibrate,
            accuracy_floor=self.accuracy_floor,
            report=self.report,
            progress=progress,
        )


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Table with the class of each row: .csv, .csv.gz, .tsv, .parquet, .arrow or .npy."
        ),
    ] = None,
    ensemble: Annotated[str, typer.Option(help="Name of the ensemble.")] = "",
    label_column: Annotated[str, typer.Option(help="Column that holds the class.")] = "label",
    drop: Annotated[
        list[str] | None, typer.Option(help="Column that is no feature; may be repeated.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="curved: a small neural network; linear: a logistic regression; trees: gradient "
            "boosting, which takes missing values."
        ),
    ] = "curved",
    builtin: Annotated[
        str, typer.Option(help="Instead of a file: iris, digits or wine.", show_default=False)
    ] = "",
    class_weight: Annotated[
        str,
        typer.Option(help="balanced: the rows of a class weigh as much together as all others."),
    ] = "",
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Correct the probabilities by rows not fitted on."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML file to write with figures and plots.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the artifacts.")] = Path("models"),
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Leave a complete set of artifacts as it is.")
    ] = False,
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    header: Header = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register the models with the controller.")
    ] = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Train a model for each class of a table, and print the accuracy of each."""
    from trillium.training import TrainingRefused

    if (data is None) != bool(builtin):
        raise typer.BadParameter("give either a file or --builtin")
    if bool(ensemble) == bool(builtin):
        raise typer.BadParameter("give --ensemble with a file, and not with --builtin")
    if class_weight not in ("", "balanced"):
        text = f"{class_weight!r} is not 'balanced'"
        raise typer.BadParameter(text, param_hint="--class-weight")
    dialect = dialect_of(delimiter, decimal, header)
    with sentences():
        if register:
            _check_controller(address, timeout)
        try:
            order = (
                _builtin_order(builtin, output)
                if data is None
                else _order(data, ensemble, label_column, drop or (), method, output, dialect)
            )
            order = replace(order, class_weight=class_weight, calibrate=calibrate, report=report)
            if if_missing and order.is_there():
                print(f"{order.ensemble}: all models are in {output} already", file=sys.stderr)
                return
            with _bar(quiet=as_json) as progress:
                trained = order.train(progress)
        except TrainingRefused as error:
            fail(str(error))
        versions = _registered(trained, address, timeout) if register else {}
    _print(trained, versions, output, as_json)


def _builtin_order(ensemble: str, output: Path) -> TableOrder:
    from trillium.training import BUILTIN, builtin_table

    if ensemble not in BUILTIN:
        text = f"{ensemble!r} is none of {', '.join(BUILTIN)}"
        raise typer.BadParameter(text, param_hint="--builtin")
    known = BUILTIN[ensemble]
    table = builtin_table(ensemble)
    return TableOrder(ensemble, table, known.method, known.accuracy_floor, output)


def _order(
    data: Path,
    ensemble: str,
    label_column: str,
    drop: Sequence[str],
    method: str,
    output: Path,
    dialect: Dialect,
) -> TableOrder:
    from trillium.training import Method, read_table

    if method not in list(Method):
        text = f"{method!r} is none of {', '.join(Method)}"
        raise typer.BadParameter(text, param_hint="--method")
    table = read_table(
        data,
        label_column,
        drop=drop,
        dialect=dialect,
        takes_missing=Method(method).takes_missing,
    )
    for each in table.notes:
        note(f"{data}: {each}")
    return TableOrder(ensemble, table, Method(method), accuracy_floor=0.0, output=output)


def _check_controller(address: str, timeout: float | None) -> None:
    """End the command before the training if the controller does not respond."""
    with controller_at(address, timeout) as controller:
        controller.is_serving()


def _registered(trained: Trained, address: str, timeout: float | None) -> Mapping[str, int]:
    """Each model's version in the catalog, by its name."""
    from trillium.cli.catalog import upload_bar

    versions = {}
    with controller_at(address, timeout) as controller:
        for model in trained.models:
            with upload_bar(model.path) as progress:
                answer = controller.register_model(model.name, model.path, progress=progress)
            versions[model.name] = answer.model.versions[-1].version
    return versions


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Progress]:
    """A progress bar of trained classes, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    off = quiet or not console.is_terminal
    with Bar(*columns, console=console, transient=True, disable=off) as bar:
        task = bar.add_task("classes trained", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _print(trained: Trained, versions: Mapping[str, int], output: Path, as_json: bool) -> None:
    from rich.text import Text

    from trillium.cli.plain import PlainTable
    from trillium.cli.run import confusion_of
    from trillium.cli.show import Screen

    screen = Screen()
    if as_json:
        screen.json(_json(trained, versions))
        return
    table = PlainTable()
    for heading in ("class", "model"):
        table.add_column(heading, overflow="fold")
    figures = ("rows", "precision", "recall", "F1", "avg. precision", "ROC AUC", "log loss")
    for heading in (*figures, *(("version",) if versions else ())):
        table.add_column(heading, justify="right")
    table.add_column("")
    for model in trained.models:
        table.add_row(
            Text(model.class_label),
            model.name,
            str(model.support),
            *(f"{score:.4f}" for score in _figures(model)),
            *((f"v{versions[model.name]}",) if versions else ()),
            "" if model.converged else Text("has not converged", style="yellow"),
        )
    screen.table(table)
    if len(trained.models) <= _MOST_CLASSES:
        labels = [model.class_label for model in trained.models]
        screen.table(confusion_of(labels, trained.confusion))
    screen.text(Text(f"features: {listed(trained.feature_names)}"))
    if trained.left_out:
        screen.text(
            Text(f"left out, since it is the table's index: {listed(trained.left_out)}", "yellow")
        )
    for warning in trained.warnings:
        screen.text(Text(warning, "yellow"))
    correct = round(trained.accuracy * trained.held_out_row_count)
    screen.text(
        Text.assemble(
            f"{trained.ensemble}: {len(trained.models)} models in {output}; combined accuracy ",
            (f"{trained.accuracy:.4f}", "bold green"),
            f" on {trained.held_out_row_count} of {trained.row_count} rows, which were held out "
            f"({correct} right)",
        )
    )


def _figures(model: TrainedModel) -> tuple[float, ...]:
    ensembles = (model.precision, model.recall, model.f1)
    return (*ensembles, model.average_precision, model.roc_auc, model.log_loss)


def _json(trained: Trained, versions: Mapping[str, int]) -> dict[str, object]:
    return {
        "ensemble": trained.ensemble,
        "accuracy": trained.accuracy,
        "row_count": trained.row_count,
        "held_out_row_count": trained.held_out_row_count,
        "feature_names": trained.feature_names,
        "left_out": trained.left_out,
        "confusion": trained.confusion.tolist(),
        "warnings": trained.warnings,
        "models": [
            {
                "model": model.name,
                "class_label": model.class_label,
                "artifact": str(model.path),
                "support": model.support,
                "accuracy": model.accuracy,
                "precision": model.precision,
                "recall": model.recall,
                "f1": model.f1,
                "average_precision": model.average_precision,
                "roc_auc": model.roc_auc,
                "log_loss": model.log_loss,
                "converged": model.converged,
                **({"version": versions[model.name]} if versions else {}),
            }
            for model in trained.models
        ],
    }
