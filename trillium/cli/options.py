"""Options and error messages that the commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from trillium import errors
from trillium.server.config import address as checked_address
from trillium.server.process import EXIT_FAILED, StartFailed
from trillium.tables.dialect import Dialect, delimiter_named

if TYPE_CHECKING:
    from trillium.client.controller import ControllerClient

_NEXT_STEPS: dict[type[errors.TrilliumError], str] = {
    errors.Unreachable: "`trillium up` starts one, --address names another",
    errors.Unauthenticated: "`trillium --token-file FILE …` brings one",
    errors.DeadlineExceeded: "--timeout allows more seconds",
    errors.NoMetadata: "`trillium status` shows its predictors",
    errors.PredictorsFailed: "`trillium status` shows all predictors",
    errors.ModelNotFound: "`trillium models list` shows what there is",
    errors.DatasetNotFound: "`trillium datasets list` shows what there is",
    errors.DeploymentNotFound: "`trillium deploy list` shows what there is",
    errors.DeploymentFailed: "`trillium deploy show` shows the last output of its predictors",
    errors.EnsembleNotFound: "`trillium ensembles list` shows what there is",
    errors.RevisionNotFound: "`trillium ensembles history` shows what there is",
    errors.RunNotFound: "`trillium run list` shows what there is",
}


def new_group(about: str, *, completion: bool = False) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=about,
        add_completion=completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # Its boxes name the type of a switch, and cut what is wide.
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def examples(*lines: str) -> str:
    """The end of a command's help: command lines, each on a line of its own."""
    # The first sign keeps click from filling lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def checked(text: str) -> str:
    """An address, or typer.BadParameter."""
    try:
        return checked_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def positive(seconds: float | None) -> float | None:
    """A time limit in seconds, or typer.BadParameter."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"expected a number of seconds above 0, got {seconds:g}")
    return seconds


def address_option(server: str, variable: str, *flags: str) -> Any:
    """The option for the address of a server."""
    text = f"Address of the {server}: host:port."
    return typer.Option(*flags, help=text, callback=checked, envvar=variable)


Address = Annotated[str, address_option("aggregator", "TRILLIUM_ADDRESS")]
# --address was its only name, and it is the only server of most commands.
ControllerAddress = Annotated[
    str, address_option("controller", "TRILLIUM_CONTROLLER", "--controller", "--address")
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the aggregator.")]
ControllerPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the controller.")]
GatewayPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")]
ModelsFolder = Annotated[Path, typer.Option(help="Folder of the artifacts.")]
_TIMEOUT = typer.Option("--timeout", help="Time limit of a call in seconds.", callback=positive)
Timeout = Annotated[float, _TIMEOUT]
Patience = Annotated[float | None, _TIMEOUT]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return once the request is recorded.")]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only check whether it can be done, and change nothing.")
]

EnsembleName = Annotated[
    str, typer.Option("--ensemble", help="Ensemble to ask, where the aggregator serves several.")
]

Delimiter = Annotated[
    str,
    typer.Option(
        help="What parts the cells of CSV: comma, semicolon, tab or bar.",
        show_default="by the first lines",
    ),
]
Decimal = Annotated[str, typer.Option(help="Decimal sign of numbers in CSV: . or ,")]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line of CSV names the columns.",
        show_default="by what stands there",
    ),
]

AGGREGATOR = "127.0.0.1:50051"
CONTROLLER = "127.0.0.1:50052"
GATEWAY = "127.0.0.1:9000"


def dialect_of(delimiter: str, decimal: str, header: bool | None) -> Dialect:
    """How a CSV file is written by the options, or typer.BadParameter."""
    try:
        return Dialect(delimiter and delimiter_named(delimiter), decimal, header)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def note(sentence: str) -> None:
    """Print what a person should know on standard error; the command goes on."""
    print(f"trillium: {visible(sentence)}", file=sys.stderr)


def visible(text: str) -> str:
    """The text with escapes in place of what a terminal would obey: control characters, and signs
    that turn the direction of writing."""
    return "".join(
        sign if sign.isprintable() or sign in "\t\n" else ascii(sign)[1:-1] for sign in text
    )


@contextmanager
def controller_at(address: str, timeout_s: float | None = None) -> Iterator[ControllerClient]:
    """A client of the controller; errors end the command as `sentences` does."""
    from trillium.client.controller import ControllerClient

    with sentences(), ControllerClient(address, timeout_s=timeout_s) as controller:
        yield controller


@contextmanager
def sentences() -> Iterator[None]:
    """Report an error as one sentence on standard error, and exit with status 1."""
    try:
        yield
    except StartFailed as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader closed the pipe, as `| head` does, so nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except errors.TrilliumError as error:
        step = _NEXT_STEPS.get(type(error))
        fail(f"{error}; {step}" if step else str(error))


def fail(sentence: str) -> NoReturn:
    """Print an error, and exit with status 1."""
    note(sentence)
    raise typer.Exit(EXIT_FAILED)
