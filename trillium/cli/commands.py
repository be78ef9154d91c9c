"""The commands of `trillium`.

Each command imports its libraries when it runs, so that `--help` and usage errors respond at once.
The exit status is 0 for success, 1 for failure, and 2 for a wrong command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import trillium
from trillium.access.tokens import TokensError, read_token
from trillium.cli import catalog, deploy, doctor, ensembles, runs, tokens, training
from trillium.cli.options import (
    AGGREGATOR,
    CONTROLLER,
    GATEWAY,
    Address,
    ControllerPort,
    Decimal,
    Delimiter,
    EnsembleName,
    GatewayPort,
    Header,
    Json,
    ModelsFolder,
    Port,
    Timeout,
    address_option,
    dialect_of,
    examples,
    new_group,
    note,
    positive,
    sentences,
    visible,
)
from trillium.cli.output import Form, FormOption, Kept, Output, counting, form_of, kept_rows
from trillium.client.credentials import TLS_CA, TOKEN_FILE
from trillium.server.process import EXIT_FAILED
from trillium.tables.dialect import Dialect

app = new_group("", completion=True)


def _use_token_file(path: Path | None) -> None:
    if path is not None:
        try:
            read_token(path)
        except TokensError as error:
            raise typer.BadParameter(str(error)) from error
        # Every client that a command makes looks for it there.
        os.environ[TOKEN_FILE] = str(path)


def _use_tls_ca(authorities: str) -> None:
    if authorities:
        os.environ[TLS_CA] = authorities


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"trillium {trillium.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar=TOKEN_FILE,
            callback=_use_token_file,
            help="File with the token that identifies you to servers.",
        ),
    ] = None,
    tls_ca: Annotated[
        str,
        typer.Option(
            envvar=TLS_CA,
            callback=_use_tls_ca,
            help="File with the authorities to trust, or `system`: calls then go over TLS.",
            show_default="plaintext",
        ),
    ] = "",
) -> None:
    """Serve a classifier as one binary model for each class, and ask it."""


app.command(
    "apply", epilog=examples("trillium apply iris.yaml", "trillium apply iris.yaml --plan")
)(ensembles.apply)
app.add_typer(ensembles.app, name="ensembles")
app.add_typer(deploy.app, name="deploy")
app.add_typer(runs.app, name="run")
app.add_typer(catalog.models, name="models")
app.add_typer(catalog.datasets, name="datasets")
catalog.models.command(
    "train",
    epilog=examples(
        "trillium models train --builtin iris",
        "trillium models train flowers.csv --ensemble flowers --label-column species",
    ),
)(training.train)
app.add_typer(tokens.app, name="token")
app.command("servers", epilog=examples("trillium servers"))(deploy.servers)
app.command("doctor", epilog=examples("trillium doctor"))(doctor.examine)
# "-1.5" is a value; an option that there is not is refused as a value that is no number.
_TAKES_NUMBERS = {"ignore_unknown_options": True}

Values = Annotated[
    list[str] | None,
    typer.Argument(
        help="The features of one row; or a file of rows, .csv, .csv.gz, .tsv, .parquet, .arrow or "
        ".npy; or - for one from standard input."
    ),
]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="CSV file, whatever its name.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after the rows that the output file has already.")
]
State = Annotated[Path, typer.Option(help="Folder for the state and the logs.")]


@app.command(
    "up", epilog=examples("trillium up", "trillium up --ensemble iris --ensemble wine --gateway")
)
def start(
    ensemble: Annotated[
        list[str] | None,
        typer.Option(help="Name of an ensemble; may be repeated.", show_default="iris"),
    ] = None,
    models: ModelsFolder = Path("models"),
    demo: Annotated[bool, typer.Option("--demo", help="Exit after the run.")] = False,
    port: Port = 50051,
    controller_port: ControllerPort = 50052,
    state: State = Path(".trillium"),
    gateway: Annotated[bool, typer.Option("--gateway", help="Start a gateway, too.")] = False,
    gateway_port: GatewayPort = 9000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="An additional host name of the gateway; others are refused."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65533,
            help="First of three ports for Prometheus: controller, aggregator, gateway.",
            show_default="no metrics",
        ),
    ] = None,
    make_target: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """Start a controller and an aggregator, load ensembles, score rows, stay up until Ctrl-C."""
    from trillium.cli.show import JsonLines, Screen
    from trillium.cli.up import up
    from trillium.cli.up.plan import Plan

    plan = Plan(
        tuple(dict.fromkeys(ensemble or ("iris",))),
        models,
        demo,
        port,
        controller_port,
        state,
        gateway_port=gateway_port if gateway else None,
        allowed_hosts=allowed_host or (),
        metrics_port=metrics_port,
        make_target=make_target,
    )
    with sentences():
        status = asyncio.run(up(plan, JsonLines() if as_json else Screen()))
    raise typer.Exit(status)


@app.command(
    "classify",
    epilog=examples(
        "trillium classify 5.1 3.5 1.4 0.2", "trillium classify flowers.csv --output labels.parquet"
    ),
    context_settings=_TAKES_NUMBERS,
)
def classify(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = AGGREGATOR,
    ensemble: EnsembleName = "",
    timeout: Timeout = 10.0,
    form: FormOption = None,
    as_json: Json = False,
    output: Output = None,
    resume: Resume = False,
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    header: Header = None,
) -> None:
    """Classify a row, or every row of a file; prints the label and every probability.

    Columns of a file are taken by name, in any order, if the file and the model name them.
    """
    layout = form_of(form, output, as_json=as_json)
    dialect = dialect_of(delimiter, decimal, header)
    asked = Aimed(address, ensemble, timeout)
    _score(values, csv, asked, layout, output, dialect, labels=True, resume=resume)


@app.command(
    "predict",
    epilog=examples(
        "trillium predict 5.1 3.5 1.4 0.2", "trillium predict - --format csv < flowers.csv"
    ),
    context_settings=_TAKES_NUMBERS,
)
def predict(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = AGGREGATOR,
    ensemble: EnsembleName = "",
    timeout: Timeout = 10.0,
    form: FormOption = None,
    as_json: Json = False,
    output: Output = None,
    resume: Resume = False,
    delimiter: Delimiter = "",
    decimal: Decimal = ".",
    header: Header = None,
) -> None:
    """Print each class's probability of a row, or of every row of a file.

    Columns of a file are taken by name, in any order, if the file and the model name them.
    """
    layout = form_of(form, output, as_json=as_json)
    dialect = dialect_of(delimiter, decimal, header)
    asked = Aimed(address, ensemble, timeout)
    _score(values, csv, asked, layout, output, dialect, labels=False, resume=resume)


@app.command(
    "status", epilog=examples("trillium status", "trillium status --address 10.0.0.7:50051 --json")
)
def show_status(
    address: Address = AGGREGATOR,
    controller: Annotated[
        str, address_option("controller", "TRILLIUM_CONTROLLER", "--controller")
    ] = CONTROLLER,
    gateway: Annotated[str, address_option("gateway", "TRILLIUM_GATEWAY", "--gateway")] = GATEWAY,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show the state of every service, class, predictor and deployment on one screen."""
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


@app.command(
    "bench",
    epilog=examples(
        "trillium bench", "trillium bench --callers 64 --seconds 10", "trillium bench flowers.csv"
    ),
)
def bench(
    file: Annotated[
        Path | None,
        typer.Argument(help="File with rows to ask in turn; default: the sample of the models."),
    ] = None,
    callers: Annotated[
        int, typer.Option(min=1, max=4096, help="Callers that each wait for their answer.")
    ] = 16,
    rows: Annotated[int, typer.Option(min=1, max=65536, help="Rows in a call.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to ask.", callback=positive)] = 5.0,
    address: Address = AGGREGATOR,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Measure how many calls an ensemble answers, and how long they take.

    Ends with status 1 if a call failed.
    """
    from itertools import islice

    import numpy as np

    from trillium.cli.asking import read_rows
    from trillium.cli.bench import BenchPlan, measure, show
    from trillium.cli.show import Screen
    from trillium.client.sync import Client

    plan = BenchPlan(address, seconds, callers, rows, timeout)
    with sentences():
        given = None
        if file is not None:
            with Client(address, timeout_s=timeout) as client:
                given = np.concatenate(list(islice(read_rows((), file, client.metadata, note), 1)))
        measured = asyncio.run(measure(plan, given))
    if as_json:
        Screen().json(measured.facts(plan))
    else:
        show(plan, measured, Screen())
    if measured.failures:
        raise typer.Exit(EXIT_FAILED)


@app.command("logs", epilog=examples("trillium logs", "trillium logs controller --follow"))
def logs(
    server: Annotated[
        str,
        typer.Argument(
            help="controller, aggregator, gateway or part of another name; default: all."
        ),
    ] = "",
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=100_000, help="Lines of each log.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")
    ] = False,
    state: State = Path(".trillium"),
) -> None:
    """Show the last lines of the logs of `trillium up`, each with the name of its server."""
    from trillium.cli.logs import followed, last_lines, logs_in

    with sentences():
        paths = logs_in(state, server)
        for path in paths:
            for line in last_lines(path, lines):
                print(f"{path.stem}: {visible(line)}")
        if follow:
            with contextlib.suppress(KeyboardInterrupt):
                for name, line in followed(paths):
                    print(f"{name}: {visible(line)}", flush=True)


@dataclass(frozen=True, slots=True)
class Aimed:
    """Whom a command asks."""

    address: str
    ensemble: str
    timeout_s: float


def _score(
    values: list[str] | None,
    csv: Path | None,
    asked: Aimed,
    form: Form,
    output: Path | None,
    dialect: Dialect,
    *,
    labels: bool,
    resume: bool,
) -> None:
    from functools import cache

    from trillium.cli.asking import after, read_rows, score, write
    from trillium.cli.show import Screen, score_table
    from trillium.client.sync import Client

    kept = kept_rows(form, output) if resume else Kept()
    made = Client(asked.address, ensemble=asked.ensemble, timeout_s=asked.timeout_s)
    with sentences(), made as client, counting(output) as progress:
        # All rows of a file are answered by the revision whose names their columns are ordered by.
        metadata = cache(client.pin)
        rows = after(read_rows(values or [], csv, metadata, note, dialect), kept.row_count)
        scored = score(client, rows, labels=labels, progress=progress)
        if form is not Form.TABLE:
            write(scored, form, output, kept, labels=labels)
            return
        scores = [each for some in scored for each in some.scores()]
        names = metadata().feature_names
    Screen().table(score_table(names, scores))
