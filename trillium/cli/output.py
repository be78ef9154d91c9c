"""Where and in which form a command writes rows: table, CSV or JSON."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer


class Form(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


FormOption = Annotated[
    Form | None,
    typer.Option("--format", help="table, csv (RFC 4180) or json.", show_default="table"),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file, as CSV or JSON.")
]


def form_of(form: Form | None, output: Path | None, *, as_json: bool) -> Form:
    """The form that the options mean together, or typer.BadParameter."""
    if as_json and form not in (None, Form.JSON):
        raise typer.BadParameter("give --json or another --format, not both")
    if output is not None and form is Form.TABLE:
        raise typer.BadParameter("a file is written as csv or json")
    if as_json:
        return Form.JSON
    return form or (Form.TABLE if output is None else Form.CSV)


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """The file, or standard output if there is none."""
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_csv(header: Sequence[str], records: Iterable[Sequence[Any]], file: TextIO) -> None:
    """Write lines as RFC 4180 has them; floats with all the digits that they have."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(records)


@contextmanager
def counting(output: Path | None) -> Iterator[Callable[[int], None]]:
    """What counts rows on a terminal, unless they are shown there: called with how many more."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    elsewhere = output is not None or not sys.stdout.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    off = not (elsewhere and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=off) as bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.advance(task, count)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """What moves on a terminal, with the seconds, as long as something takes."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        bar.add_task(what, total=None)
        yield
