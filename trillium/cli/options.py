"""What the commands have in common: options, and how they say what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    errors.ModelNotFound: "`trillium models list` shows what there is",
    errors.DatasetNotFound: "`trillium datasets list` shows what there is",
    errors.DeploymentNotFound: "`trillium deploy list` shows what there is",
    errors.DeploymentFailed: "`trillium deploy show` tells its predictors' last words",
    errors.RunNotFound: "`trillium run list` shows what there is",
}


def new_group(about: str, *, completion: bool = False) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=about,
        add_completion=completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def checked(text: str) -> str:
    """An address, or typer.BadParameter."""
    try:
        return checked_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def positive(seconds: float | None) -> float | None:
    """A number of seconds that something may take."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise typer.BadParameter("a number of seconds above 0 is wanted")
    return seconds


Address = Annotated[str, typer.Option(help="Where the aggregator listens.", callback=checked)]
ControllerAddress = Annotated[
    str, typer.Option("--address", help="Where the controller listens.", callback=checked)
]
Timeout = Annotated[
    float, typer.Option(help="Seconds until a call is given up.", callback=positive)
]
Patience = Annotated[
    float | None,
    typer.Option("--timeout", help="Seconds until a call is given up.", callback=positive),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Answer as soon as the wish is written down.")
]

CONTROLLER = "127.0.0.1:50052"


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what may go wrong into one sentence on standard error and exit status 1."""
    try:
        yield
    except StartFailed as error:
        fail(str(error))
    except BrokenPipeError:
        # Who reads has seen enough, as with `| head`; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except errors.TrilliumError as error:
        step = _NEXT_STEPS.get(type(error))
        fail(f"{error}; {step}" if step else str(error))


def fail(sentence: str) -> NoReturn:
    """Say what went wrong, and end with status 1."""
    print(f"trillium: {sentence}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)
