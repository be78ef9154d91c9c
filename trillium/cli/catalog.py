"""`trillium models …` and `trillium datasets …`: what can be deployed and scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    Json,
    Patience,
    fail,
    new_group,
    sentences,
)

if TYPE_CHECKING:
    from trillium.controller_client import Progress

models = new_group("The models that can be deployed.")
datasets = new_group("The datasets that can be scored.")

Name = Annotated[str, typer.Argument(help="Name to register it by.", show_default=False)]


@models.command("list")
def list_models(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List models and their newest versions."""
    from trillium.cli import listing
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        found = list(controller.models())
    listing.show(found, listing.models, as_json)


@models.command("add")
def add_model(
    name: Name,
    artifact: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    class_label: Annotated[
        str, typer.Option("--class", help="The class it recognises, if the file does not say.")
    ] = "",
    positive_column: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Column of the class's probability, likewise."),
    ] = None,
    output_name: Annotated[
        str, typer.Option("--output", help="The graph's output, if several could be meant.")
    ] = "",
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Register an ONNX file as the next version of a model."""
    from trillium.cli import listing
    from trillium.controller_client import ControllerClient

    client = ControllerClient(address, timeout_s=timeout)
    with sentences(), client as controller, upload_bar(artifact) as progress:
        answer = controller.register_model(
            name,
            artifact,
            class_label=class_label,
            positive_column=positive_column,
            output_name=output_name,
            progress=progress,
        )
    listing.show([answer.model], listing.models, as_json)


@datasets.command("list")
def list_datasets(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List datasets and their newest versions."""
    from trillium.cli import listing
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        found = list(controller.datasets())
    listing.show(found, listing.datasets, as_json)


@datasets.command("add")
def add_dataset(
    name: Name,
    file: Annotated[
        Path, typer.Argument(help="CSV, NPY or Parquet; a column `label` holds the true class.")
    ],
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Register a file as the next version of a dataset."""
    from trillium.cli import listing
    from trillium.controller_client import FORMATS, ControllerClient

    if file.suffix.lower() not in FORMATS:
        fail(f"{file}: a dataset's file name ends in one of {', '.join(FORMATS)}")
    client = ControllerClient(address, timeout_s=timeout)
    with sentences(), client as controller, upload_bar(file) as progress:
        answer = controller.register_dataset(name, file, progress=progress)
    listing.show([answer.dataset], listing.datasets, as_json)


@contextmanager
def upload_bar(file: Path) -> Iterator[Progress]:
    """What shows an upload as a bar, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=None)
        yield lambda sent, size: bar.update(task, completed=sent, total=size)
