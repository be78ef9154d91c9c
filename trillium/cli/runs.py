"""`trillium run …`: score whole datasets, and read what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    Json,
    Patience,
    new_group,
    positive,
    sentences,
)
from trillium.cli.output import Form, FormOption, Output, form_of, opened, write_csv
from trillium.process import EXIT_FAILED

if TYPE_CHECKING:
    from trillium.controller.v1 import run_service_pb2 as run_pb

app = new_group("Score whole datasets, once each, and read the results.")

_SHOWN_ROWS = 20

Id = Annotated[str, typer.Argument(help="Id of the run.", show_default=False)]


@app.command("create")
def create(
    model: Annotated[str, typer.Argument(help="Name of a model.", show_default=False)],
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.", show_default=False)],
    id: Annotated[str, typer.Option(help="Id of the run; one is made up if empty.")] = "",
    deployment: Annotated[
        str, typer.Option(help="Use this loaded deployment, not a predictor of the run's own.")
    ] = "",
    limit: Annotated[
        float, typer.Option(help="Seconds that the run may take.", callback=positive)
    ] = 3600.0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Answer as soon as the run is written down.")
    ] = False,
    address: ControllerAddress = CONTROLLER,
    as_json: Json = False,
) -> None:
    """Score a dataset with a model, and tell how well that went."""
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address) as controller:
        run = controller.run(
            model, dataset, id=id, deployment=deployment, run_timeout_s=limit, wait=False
        )
        if not no_wait:
            run = _followed(controller.watch_run(run.name), run, quiet=as_json)
    _tell(run, as_json)


@app.command("watch")
def watch(id: Id, address: ControllerAddress = CONTROLLER, as_json: Json = False) -> None:
    """Follow a run until it has ended."""
    from trillium.cli import listing
    from trillium.cli.show import Screen
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address) as controller:
        if as_json:
            for each in controller.watch_run(id):
                Screen().json(listing.plain(each))
            return
        run = _followed(controller.watch_run(id), None, quiet=False)
    _tell(run, as_json)


@app.command("list")
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
    from trillium.controller_client import ControllerClient

    states = listing.states(run_pb.RunState, "RUN_STATE_", state or ())
    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        found = list(controller.runs(states=states, model=model))
    listing.show(found, listing.runs, as_json)


@app.command("show")
def show(
    id: Id, address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """Show one run, and how well the model did."""
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        run = controller.get_run(id)
    _tell(run, as_json, asked=False)


@app.command("cancel")
def cancel(
    id: Id, address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """End a run; one that has ended already is left as it is."""
    from trillium.controller_client import ControllerClient

    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        run = controller.cancel_run(id)
    _tell(run, as_json, asked=False)


@app.command("results")
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
    from trillium.controller_client import ControllerClient

    if as_csv and (as_json or form not in (None, Form.CSV)):
        raise typer.BadParameter("give --csv or another form, not both")
    layout = form_of(Form.CSV if as_csv else form, output, as_json=as_json)
    with sentences(), ControllerClient(address, timeout_s=timeout) as controller:
        found = controller.results(id)
        if layout is not Form.TABLE:
            with opened(output) as file:
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


def _tell(run: run_pb.Run, as_json: bool, *, asked: bool = True) -> None:
    """Print a run; with `asked`, one that has failed ends the command with status 1."""
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
    if asked and failed:
        raise typer.Exit(EXIT_FAILED)


def _write_csv(results: Iterable[run_pb.Result], file: TextIO) -> None:
    records = ((each.row, _shortest(each.probability), each.label) for each in results)
    write_csv(("row", "probability", "label"), records, file)


def _write_json(results: Iterable[run_pb.Result], file: TextIO) -> None:
    for each in results:
        line = {"row": each.row, "probability": float(_shortest(each.probability))}
        file.write(json.dumps({**line, "label": each.label}) + "\n")


def _shortest(probability: float) -> str:
    """The shortest text that means this float32, not the double next to it."""
    import numpy as np

    return str(np.float32(probability))
