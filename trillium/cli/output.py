"""Where and in which form a command writes rows: table, CSV or JSON."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TextIO

import typer


class Form(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


FormOption = Annotated[
    Form | None,
    typer.Option(
        "--format",
        help="table, csv (RFC 4180), json (an object in each line) or parquet.",
        show_default="by the name of the file, else table",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")]
_BY_SUFFIX = {".json": Form.JSON, ".jsonl": Form.JSON, ".parquet": Form.PARQUET}


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that an output holds already."""

    row_count: int = 0
    size: int = 0
    """In bytes, with the header; what follows is part of a row."""
    header: Sequence[str] = ()

    def check(self, header: Sequence[str]) -> None:
        """Raises typer.BadParameter unless they have this header."""
        if self.header and list(self.header) != list(header):
            text = f"the file has the columns {', '.join(self.header)}, and these are"
            raise typer.BadParameter(f"{text} {', '.join(header)}", param_hint="--resume")


def form_of(form: Form | None, output: Path | None, *, as_json: bool) -> Form:
    """The form that the options mean together, or typer.BadParameter."""
    if as_json and form not in (None, Form.JSON):
        raise typer.BadParameter("give --json or another --format, not both")
    if output is not None and form is Form.TABLE:
        raise typer.BadParameter("a file is written as csv, json or parquet")
    if output is None and form is Form.PARQUET:
        raise typer.BadParameter("parquet is written to a file: give --output")
    if as_json:
        return Form.JSON
    if output is None:
        return form or Form.TABLE
    return form or _BY_SUFFIX.get(output.suffix.lower(), Form.CSV)


def kept_rows(form: Form, output: Path | None) -> Kept:
    """What an earlier command, which did not end, has written to the output."""
    if output is None or form is Form.PARQUET:
        text = "only a csv or json file can be resumed: give --output"
        raise typer.BadParameter(text, param_hint="--resume")
    if not output.exists():
        return Kept()
    with output.open("rb") as file:
        return _kept_csv(file) if form is Form.CSV else _kept_lines(file)


def _kept_csv(file: BinaryIO) -> Kept:
    ends: list[int] = []  # Of the lines so far; a record may take several.

    def lines() -> Iterator[str]:
        for line in file:
            if not line.endswith(b"\n"):
                return  # The earlier command was ended while it wrote this one.
            ends.append(len(line) + (ends[-1] if ends else 0))
            yield line.decode("utf-8-sig")

    header: Sequence[str] = ()
    size = count = 0
    for record in csv.reader(lines()):
        size = ends[-1]
        if header:
            count += 1
        else:
            header = record
    return Kept(count, size, header) if count else Kept()


def _kept_lines(file: BinaryIO) -> Kept:
    size = count = 0
    for line in file:
        if line.endswith(b"\n"):
            size += len(line)
            count += 1
    return Kept(count, size)


@contextmanager
def opened(output: Path | None, kept: Kept) -> Iterator[TextIO]:
    """The file after the rows that are kept, or standard output if there is none."""
    if output is None:
        yield sys.stdout
        return
    with output.open("r+" if kept.size else "w", encoding="utf-8", newline="") as file:
        if kept.size:
            file.seek(kept.size)
            file.truncate()
        yield file


def write_csv(records: Iterable[Sequence[Any]], file: TextIO) -> None:
    """Write lines as RFC 4180 has them; floats with all the digits that they have."""
    csv.writer(file, lineterminator="\r\n").writerows(records)


@contextmanager
def counting(output: Path | None) -> Iterator[Callable[[int], None]]:
    """What counts rows on a terminal, unless they are shown there: called with how many more."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    elsewhere = output is not None or not sys.stdout.isatty()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
        TextColumn("{task.speed:,.0f} rows/s"),
    )
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
