"""The command `trillium`.

What a command needs is imported when it runs, so that `--help` and a typing error answer at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trillium import errors
from trillium.config import address as checked_address
from trillium.process import EXIT_FAILED, StartFailed

_NEXT_STEPS: dict[type[errors.TrilliumError], str] = {
    errors.Unreachable: "`trillium up` starts one, --address names another",
    errors.DeadlineExceeded: "--timeout allows more seconds",
    errors.NoMetadata: "`trillium status` shows its predictors",
    errors.PredictorsFailed: "`trillium status` shows all predictors",
}

app = typer.Typer(
    name="trillium",
    help="Serve a classifier as one binary model for each class, and ask it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# "-1.5" is a value; an option that there is not is refused as a value that is no number.
_TAKES_NUMBERS = {"ignore_unknown_options": True}


def _address(text: str) -> str:
    try:
        return checked_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _positive(seconds: float) -> float:
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter("a number of seconds above 0 is wanted")
    return seconds


Address = Annotated[str, typer.Option(help="Where the aggregator listens.", callback=_address)]
Timeout = Annotated[
    float, typer.Option(help="Seconds until a call is given up.", callback=_positive)
]
Values = Annotated[
    list[str] | None,
    typer.Argument(help="The features of one row, or - to read CSV from standard input."),
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", help="CSV file with a row in each line; - as above.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the aggregator.")]
ControllerPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the controller.")]
State = Annotated[Path, typer.Option(help="Folder for what a restart resumes, and for logs.")]


@app.command("up")
def start(
    ensemble: Annotated[str, typer.Option(help="Which ensemble to serve.")] = "iris",
    models: Annotated[Path, typer.Option(help="Folder of the artifacts.")] = Path("models"),
    demo: Annotated[bool, typer.Option("--demo", help="Stop after the run.")] = False,
    port: Port = 50051,
    controller_port: ControllerPort = 50052,
    state: State = Path(".trillium"),
) -> None:
    """Start a controller and an aggregator, load an ensemble, score rows, stay up until Ctrl-C."""
    from trillium.cli.show import Screen
    from trillium.cli.up import Plan, up

    plan = Plan(ensemble, models, demo, port, controller_port, state)
    with _sentences():
        status = asyncio.run(up(plan, Screen()))
    raise typer.Exit(status)


@app.command("classify", context_settings=_TAKES_NUMBERS)
def classify(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = "127.0.0.1:50051",
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Tell the class of a row, or of every row of a CSV file, and each class's probability."""
    _score(values, csv, address, timeout, as_json, labels=True)


@app.command("predict", context_settings=_TAKES_NUMBERS)
def predict(
    values: Values = None,
    csv: CsvFile = None,
    address: Address = "127.0.0.1:50051",
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Tell each class's probability of a row, or of every row of a CSV file."""
    _score(values, csv, address, timeout, as_json, labels=False)


@app.command("status")
def show_status(
    address: Address = "127.0.0.1:50051", timeout: Timeout = 10.0, as_json: Json = False
) -> None:
    """Show what the ensemble is, and the state of its predictors."""
    from trillium.client import Client

    with _sentences(), Client(address, timeout_s=timeout) as client:
        predictors, serving = client.predictors(), client.is_serving()
        try:
            metadata = client.metadata()
        except errors.NoMetadata:
            metadata = None
    from trillium.cli.show import Screen, metadata_line, predictor_table, status_json

    screen = Screen()
    if as_json:
        screen.json(status_json(address, serving, metadata, predictors))
        return
    screen.text(metadata_line(address, serving, metadata))
    screen.table(predictor_table(predictors))


def _score(
    values: list[str] | None,
    csv: Path | None,
    address: str,
    timeout_s: float,
    as_json: bool,
    *,
    labels: bool,
) -> None:
    from trillium.cli.asking import read_rows, score
    from trillium.cli.show import Screen, score_json, score_table
    from trillium.client import Client

    screen = Screen()
    with _sentences(), Client(address, timeout_s=timeout_s) as client:
        try:
            rows = read_rows(values or [], csv, lambda: client.metadata().feature_names)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        scores = score(client, rows, labels=labels)
        names = () if as_json else client.metadata().feature_names
    if as_json:
        for each in scores:
            screen.json(score_json(each))
    else:
        screen.table(score_table(names, scores))


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn what may go wrong into one sentence on standard error and exit status 1."""
    try:
        yield
    except StartFailed as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except errors.TrilliumError as error:
        step = _NEXT_STEPS.get(type(error))
        _fail(f"{error}; {step}" if step else str(error))


def _fail(sentence: str) -> NoReturn:
    print(f"trillium: {sentence}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Run the command line; ends the process with status 0, 1 (failed) or 2 (usage)."""
    app(prog_name="trillium")
