"""`trillium run …`: scores whole datasets, and prints the results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    DryRun,
    Json,
    Patience,
    controller_at,
    examples,
    new_group,
    positive,
)
from trillium.cli.output import Form, FormOption, Kept, Output, form_of, opened, write_csv
from trillium.server.process import EXIT_FAILED

if TYPE_CHECKING:
    from trillium.controller.v1 import run_service_pb2 as run_pb

app = new_group("Score whole datasets, once each, and read the results.")

_SHOWN_ROWS = 20

Id = Annotated[str, typer.Argument(help="Id of the run.", show_default=False)]


@app.command("create", epilog=examples("trillium run create iris-setosa iris --id r1"))
def create(
    model: Annotated[str, typer.Argument(help="Name of a model.", show_default=False)],
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.", show_default=False)],
    id: Annotated[str, typer.Option(help="Id of the run; generated if empty.")] = "",
    deployment: Annotated[
        str, typer.Option(help="Id of a loaded deployment to use; default: a new predictor.")
    ] = "",
    limit: Annotated[
        float, typer.Option(help="Time limit of the run in seconds.", callback=positive)
    ] = 3600.0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return once the run is recorded.")
    ] = False,
    address: ControllerAddress = CONTROLLER,
    as_json: Json = False,
) -> None:
    """Score a dataset with a model, and print the accuracy."""

    with controller_at(address) as controller:
        run = controller.run(
            model, dataset, id=id, deployment=deployment, run_timeout_s=limit, wait=False
        )
        if not no_wait:
            run = _followed(controller.watch_run(run.name), run, quiet=as_json)
    _print(run, as_json)


@app.command("watch", epilog=examples("trillium run watch r1"))
def watch(id: Id, address: ControllerAddress = CONTROLLER, as_json: Json = False) -> None:
    """Follow a run until it has ended."""
    from trillium.cli import listing
    from trillium.cli.show import Screen

    with controller_at(address) as controller:
        if as_json:
            for each in controller.watch_run(id):
                Screen().json(listing.plain(each))
            return
        run = _followed(controller.watch_run(id), None, quiet=False)
    _print(run, as_json)


@app.command("list", epilog=examples("trillium run list"))
def list_all(
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state: running, succeeded, …")
    ] = None,
    model: Annotated[str, typer.Option(help="Only those of this model.")] = "",
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """List runs."""
    from trillium.cli import listing
    from trillium.controller.v1 import run_service_pb2 as run_pb

    states = listing.states(run_pb.RunState, "RUN_STATE_", state or ())
    with controller_at(address, timeout) as controller:
        found = list(controller.runs(states=states, model=model))
    listing.show(found, listing.runs, as_json)


@app.command("show", epilog=examples("trillium run show r1"))
def show(
    id: Id, address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """Show one run and its accuracy."""

    with controller_at(address, timeout) as controller:
        run = controller.get_run(id)
    _print(run, as_json, fail=False)


@app.command("cancel", epilog=examples("trillium run cancel r1"))
def cancel(
    id: Id, address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """Cancel a run; a run that has ended stays as it is."""

    with controller_at(address, timeout) as controller:
        run = controller.cancel_run(id)
    _print(run, as_json, fail=False)


@app.command("delete", epilog=examples("trillium run delete r1"))
def delete(
    id: Id,
    dry_run: DryRun = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
) -> None:
    """Delete a run that has ended, with its results."""

    with controller_at(address, timeout) as controller:
        rows = controller.delete_run(id, validate_only=dry_run)
    verb = "can be deleted, with" if dry_run else "deleted, with"
    typer.echo(f"{id}: {verb} {rows:,} rows of results")


@app.command("results", epilog=examples("trillium run results r1 --format csv --output scores.csv"))
def results(
    id: Id,
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv.")] = False,
    form: FormOption = None,
    as_json: Json = False,
    output: Output = None,
    rows: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most rows of the table.")
    ] = _SHOWN_ROWS,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
) -> None:
    """Show the results of a run that has succeeded: a table, CSV, or JSON."""
    from trillium.cli import listing
    from trillium.cli.show import Screen

    if as_csv and (as_json or form not in (None, Form.CSV)):
        raise typer.BadParameter("--csv cannot be combined with another format")
    layout = form_of(Form.CSV if as_csv else form, output, as_json=as_json)
    if layout is Form.PARQUET:
        raise typer.BadParameter("results are written as csv or json")
    with controller_at(address, timeout) as controller:
        found = controller.results(id)
        if layout is not Form.TABLE:
            with opened(output, Kept()) as file:
                (_write_json if layout is Form.JSON else _write_csv)(found, file)
            return
        some = list(islice(found, rows))
        whole = next(found, None) is None
    screen = Screen()
    screen.table(listing.results(some))
    if not whole:
        screen.say(f"the first {len(some)} rows; --csv and --json print all")


def _followed(changes: Iterable[run_pb.Run], run: run_pb.Run | None, *, quiet: bool) -> run_pb.Run:
    """The run as it has ended, with a bar on a terminal meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from trillium.cli import listing

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        for run in changes:
            bar.update(
                task,
                description=f"{run.name} {listing.state_of(run)}",
                completed=run.rows_done,
                total=run.rows_total or None,
            )
    assert run is not None
    return run


def _print(run: run_pb.Run, as_json: bool, *, fail: bool = True) -> None:
    """Print a run; with `fail`, one that has failed ends the command with status 1."""
    from trillium.cli import listing
    from trillium.cli.run import of_message
    from trillium.cli.show import Screen
    from trillium.controller.v1 import run_service_pb2 as run_pb

    screen = Screen()
    if as_json:
        screen.json(listing.plain(run))
    elif run.HasField("end_time"):
        screen.run(of_message(run))
    else:
        screen.table(listing.runs([run]))
    failed = run.HasField("end_time") and run.state != run_pb.RUN_STATE_SUCCEEDED
    if fail and failed:
        raise typer.Exit(EXIT_FAILED)


def _write_csv(results: Iterable[run_pb.Result], file: TextIO) -> None:
    records = ((each.row, _shortest(each.probability), each.label) for each in results)
    write_csv(chain([("row", "probability", "label")], records), file)


def _write_json(results: Iterable[run_pb.Result], file: TextIO) -> None:
    for each in results:
        line = {"row": each.row, "probability": float(_shortest(each.probability))}
        file.write(json.dumps({**line, "label": each.label}) + "\n")


def _shortest(probability: float) -> str:
    """The shortest digits of this float32, not those of the nearest double."""
    import numpy as np

    return str(np.float32(probability))
