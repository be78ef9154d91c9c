"""The command `trillium`.

What a command needs is imported when it runs, so that `--help` and a typing error answer at once.
Its exit status is 0 when what was asked was done, 1 when not, and 2 for a wrong command line.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from trillium.cli import catalog, deploy, doctor, runs, training
from trillium.cli.options import (
    CONTROLLER,
    Address,
    Json,
    Timeout,
    checked,
    new_group,
    sentences,
)
from trillium.cli.output import Form, FormOption, Output, counting, form_of

app = new_group(
    "Serve a classifier as one binary model for each class, and ask it.", completion=True
)
app.add_typer(deploy.app, name="deploy")
app.add_typer(runs.app, name="run")
app.add_typer(catalog.models, name="models")
app.add_typer(catalog.datasets, name="datasets")
catalog.models.command("train")(training.train)
app.command("servers")(deploy.servers)
app.command("doctor")(doctor.examine)
# "-1.5" is a value; an option that there is not is refused as a value that is no number.
_TAKES_NUMBERS = {"ignore_unknown_options": True}

Values = Annotated[
    list[str] | None,
    typer.Argument(help="The features of one row, or - to read CSV from standard input."),
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", help="CSV file with a row in each line; - as above.")
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the aggregator.")]
ControllerPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the controller.")]
GatewayPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")]
State = Annotated[Path, typer.Option(help="Folder for what a restart resumes, and for logs.")]


@app.command("up")
def start(
    ensemble: Annotated[str, typer.Option(help="Which ensemble to serve.")] = "iris",
    models: Annotated[Path, typer.Option(help="Folder of the artifacts.")] = Path("models"),
    demo: Annotated[bool, typer.Option("--demo", help="Stop after the run.")] = False,
    port: Port = 50051,
    controller_port: ControllerPort = 50052,
    state: State = Path(".trillium"),
    gateway: Annotated[bool, typer.Option("--gateway", help="Serve HTTP, too.")] = False,
    gateway_port: GatewayPort = 9000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name of the gateway; requests for others get nothing."),
    ] = None,
    make_target: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """Start a controller and an aggregator, load an ensemble, score rows, stay up until Ctrl-C."""
    from trillium.cli.show import JsonLines, Screen
    from trillium.cli.up import Plan, up

    plan = Plan(
        ensemble,
        models,
        demo,
        port,
        controller_port,
        state,
        gateway_port=gateway_port if gateway else None,
        allowed_hosts=allowed_host or (),
        make_target=make_target,
    )
    with sentences():
        status = asyncio.run(up(plan, JsonLines() if as_json else Screen()))
    raise typer.Exit(status)


@app.command("classify", context_settings=_TAKES_NUMBERS)
def classify(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = "127.0.0.1:50051",
    timeout: Timeout = 10.0,
    form: FormOption = None,
    as_json: Json = False,
    output: Output = None,
) -> None:
    """Tell the class of a row, or of every row of a CSV file, and each class's probability."""
    layout = form_of(form, output, as_json=as_json)
    _score(values, csv, address, timeout, layout, output, labels=True)


@app.command("predict", context_settings=_TAKES_NUMBERS)
def predict(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = "127.0.0.1:50051",
    timeout: Timeout = 10.0,
    form: FormOption = None,
    as_json: Json = False,
    output: Output = None,
) -> None:
    """Tell each class's probability of a row, or of every row of a CSV file."""
    layout = form_of(form, output, as_json=as_json)
    _score(values, csv, address, timeout, layout, output, labels=False)


@app.command("status")
def show_status(
    address: Address = "127.0.0.1:50051",
    controller: Annotated[
        str, typer.Option(help="Where the controller listens, if there is one.", callback=checked)
    ] = CONTROLLER,
    gateway: Annotated[
        str, typer.Option(help="Where the gateway listens, if there is one.", callback=checked)
    ] = "127.0.0.1:9000",
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show on one screen every service, class, predictor and deployment, and how they are."""
    from trillium.cli.show import Screen
    from trillium.cli.status import controller_status, ensemble_status, gateway_status

    screen = Screen()
    with sentences():
        ensemble = ensemble_status(address, timeout)
        known, http = controller_status(controller, timeout), gateway_status(gateway, timeout)
        if as_json:
            facts = {"controller": known.json(), "gateway": http.json()}
            screen.json(ensemble.json() | facts)
        else:
            ensemble.show(screen)
            if ensemble.error is None or not known.problem:
                known.show(screen)
            if ensemble.error is None or not http.problem:
                http.show(screen)
        if ensemble.error is not None:
            raise ensemble.error


def _score(
    values: list[str] | None,
    csv: Path | None,
    address: str,
    timeout_s: float,
    form: Form,
    output: Path | None,
    *,
    labels: bool,
) -> None:
    from trillium.cli.asking import read_rows, score, write
    from trillium.cli.show import Screen, score_table
    from trillium.client import Client

    with sentences(), Client(address, timeout_s=timeout_s) as client, counting(output) as told:
        rows = read_rows(values or [], csv, lambda: client.metadata().feature_names)
        scores = score(client, rows, labels=labels, told=told)
        if form is not Form.TABLE:
            write(scores, form, output, labels=labels)
            return
        found = list(scores)
        names = client.metadata().feature_names
    Screen().table(score_table(names, found))


def main() -> None:
    """Run the command line; ends the process with status 0, 1 (failed) or 2 (usage)."""
    app(prog_name="trillium")
