"""`trillium models …` and `trillium datasets …`: the catalog of the controller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    Decimal,
    Delimiter,
    DryRun,
    Header,
    Json,
    Patience,
    controller_at,
    dialect_of,
    examples,
    fail,
    new_group,
    note,
)

if TYPE_CHECKING:
    from trillium.client.controller_calls import Progress

models = new_group("The models that can be deployed.")
datasets = new_group("The datasets that can be scored.")

Name = Annotated[str, typer.Argument(help="Name to register it by.", show_default=False)]
Existing = Annotated[str, typer.Argument(help="Name that it has.", show_default=False)]


@models.command("list", epilog=examples("trillium models list"))
def list_models(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List models and their newest versions."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = list(controller.models())
    listing.show(found, listing.models, as_json)


@models.command(
    "add",
    epilog=examples("trillium models add rose rose.onnx --class-label rose --positive-column 1"),
)
def add_model(
    name: Name,
    artifact: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    class_label: Annotated[
        str,
        typer.Option(
            "--class-label",
            "--class",
            help="Class that the model recognizes; default: what the file declares.",
        ),
    ] = "",
    positive_column: Annotated[
        int | None,
        typer.Option(
            min=0, max=1, help="Column of the class's probability; default: what the file declares."
        ),
    ] = None,
    output_name: Annotated[
        str, typer.Option("--output-name", help="Output of the graph; needed if it has several.")
    ] = "",
    ensemble: Annotated[
        str, typer.Option(help="Name of the ensemble; default: what the file declares.")
    ] = "",
    takes_missing: Annotated[
        bool | None,
        typer.Option(
            "--takes-missing/--no-takes-missing",
            help="Whether values of a row may be missing; default: what the file declares.",
        ),
    ] = None,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Register an ONNX file as the next version of a model."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller, upload_bar(artifact) as progress:
        answer = controller.register_model(
            name,
            artifact,
            class_label=class_label,
            positive_column=positive_column,
            output_name=output_name,
            ensemble=ensemble,
            takes_missing=takes_missing,
            progress=progress,
        )
    (version,) = (each for each in answer.model.versions if each.version == answer.version)
    if version.inferred:
        note(f"{artifact}: {version.inferred}")
    listing.show([answer.model], listing.models, as_json)


@models.command(
    "delete",
    epilog=examples("trillium models delete rose --version 2", "trillium models delete rose"),
)
def delete_model(
    name: Existing,
    version: Annotated[
        int | None, typer.Option(min=1, help="Only this version; default: the model.")
    ] = None,
    dry_run: DryRun = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
) -> None:
    """Delete a model that no deployment and no run uses."""
    with controller_at(address, timeout) as controller:
        freed = controller.delete_model(name, version=version, validate_only=dry_run)
    _say_freed(f"{name} version {version}" if version else name, freed, dry_run)


@datasets.command("list", epilog=examples("trillium datasets list --json"))
def list_datasets(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List datasets and their newest versions."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = list(controller.datasets())
    listing.show(found, listing.datasets, as_json)


@datasets.command(
    "add",
    epilog=examples(
        "trillium datasets add flowers flowers.csv --label-column species --drop id",
        "trillium datasets add flowers flowers.parquet",
    ),
)
def add_dataset(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(help="File of rows: .csv, .csv.gz, .tsv, .parquet, .arrow or .npy."),
    ],
    label_column: Annotated[
        str,
        typer.Option(help="Column of the true class.", show_default="label, if there is one"),
    ] = "",
    drop: Annotated[
        list[str] | None, typer.Option(help="Column that is no feature; may be repeated.")
    ] = None,
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    header: Header = None,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Register a file as the next version of a dataset."""
    from trillium.cli import listing
    from trillium.tables.reading import format_of_name

    dialect = dialect_of(delimiter, decimal, header)
    try:
        format_of_name(file)
    except ValueError as error:
        fail(str(error))
    with controller_at(address, timeout) as controller, upload_bar(file) as progress:
        answer = controller.register_dataset(
            name,
            file,
            label_column=label_column,
            drop=drop or (),
            dialect=dialect,
            progress=progress,
        )
    (version,) = (each for each in answer.dataset.versions if each.version == answer.version)
    for each in version.notes:
        note(f"{file}: {each}")
    listing.show([answer.dataset], listing.datasets, as_json)


@datasets.command("delete", epilog=examples("trillium datasets delete flowers --dry-run"))
def delete_dataset(
    name: Existing,
    dry_run: DryRun = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
) -> None:
    """Delete a dataset that no run uses; the results of earlier runs stay."""
    with controller_at(address, timeout) as controller:
        freed = controller.delete_dataset(name, validate_only=dry_run)
    _say_freed(name, freed, dry_run)


def _say_freed(what: str, freed: int, dry_run: bool) -> None:
    verb = "can be deleted, which frees" if dry_run else "deleted; frees"
    typer.echo(f"{what}: {verb} {freed:,} bytes")


@contextmanager
def upload_bar(file: Path) -> Iterator[Progress]:
    """A progress bar for an upload, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=None)
        yield lambda sent, size: bar.update(task, completed=sent, total=size)
