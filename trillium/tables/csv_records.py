"""The one dialect of CSV: UTF-8 with or without a byte order mark, quotes where needed.

Cells are parted by a comma, or by the semicolon, tab or bar that a dialect names, a line `sep=;`
names, or the first lines show. Lines end in LF, CRLF or CR. Readers strip white space around cells.
Blank lines are skipped, except in a file of one column: there, a blank line may be a missing value,
and skipping it would shift all rows after it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO, TypeAlias

from trillium.tables.dialect import DEFAULT, DELIMITERS, Dialect
from trillium.tables.numbers import are_numbers

Record: TypeAlias = tuple[int, list[str]]
"""The number from 1 of the line on which a record ends, and its cells."""

_SEP_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_LINES_LOOKED_AT = 20


class CsvError(ValueError):
    """A line that is not CSV; the text names it."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line} {problem}")


class NoHeader(ValueError):
    """The file does not begin with the names of its columns."""


def text_of(file: BinaryIO) -> Iterator[str]:
    """The lines of a file for `records`, decoded as they are read; the file stays open."""
    # Bytes that are not UTF-8 become surrogates, for which `records` can name the line.
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from lines
    finally:
        if not file.closed:
            lines.detach()


def recognized(lines: Iterable[str], dialect: Dialect = DEFAULT) -> tuple[Iterator[str], str, int]:
    """The lines after a line `sep=`, the delimiter of their cells, and how many lines that leaves
    out.

    Raises CsvError if several delimiters could be meant.
    """
    remaining = iter(lines)
    first = next(remaining, None)
    # Where no sign parts the cells there is one column, and a decimal comma must not part it.
    usual = ";" if dialect.decimal == "," else ","
    if first is None:
        return iter(()), dialect.delimiter or usual, 0
    named = _SEP_LINE.fullmatch(first)
    if named:
        given = named.group(1)
        if given not in DELIMITERS or dialect.delimiter not in ("", given):
            expected = DELIMITERS.get(dialect.delimiter, ", ".join(DELIMITERS.values()))
            raise CsvError(1, f"names the delimiter {given!r}: expected {expected}")
        return remaining, given, 1
    if dialect.delimiter:
        return chain([first], remaining), dialect.delimiter, 0
    # A pipe may hand on one line at a time, so a second one is waited for only where it decides.
    possible = [sign for sign in DELIMITERS if sign in first and sign != dialect.decimal]
    if possible in ([], [","]):
        return chain([first], remaining), usual, 0
    head = [first, *islice(remaining, _LINES_LOOKED_AT - 1)]
    return chain(head, remaining), _delimiter_of(head, possible, usual), 0


def _delimiter_of(head: list[str], possible: list[str], usual: str) -> str:
    """The one that parts the first two records into equally many cells; `usual` if none does."""
    fitting = []
    for sign in possible:
        try:
            widths = {len(cells) for _, cells in islice(records(head, sign), 2)}
        except CsvError:
            continue
        if len(widths) == 1 and widths != {1}:
            fitting.append(sign)
    if len(fitting) > 1:
        names = " and the ".join(DELIMITERS[sign] for sign in fitting)
        text = f"is {head[0].strip()[:60]!r}: the {names} could both part its cells"
        raise CsvError(1, f"{text}; name the delimiter")
    return fitting[0] if fitting else usual


def records(
    lines: Iterable[str], delimiter: str = ",", skipped: int = 0, width: int = 0
) -> Iterator[Record]:
    """Every record; `skipped` lines of the file stand before `lines`, and records among them have
    `width` cells. Raises CsvError."""
    reader = csv.reader(_utf8(lines, skipped), delimiter=delimiter, strict=True)
    end, blank = skipped, 0
    try:
        for cells in reader:
            end = reader.line_num + skipped
            if not cells or (width != 1 and len(cells) == 1 and cells[0].isspace()):
                blank = blank or end
                continue
            if blank and width == 1:
                text = "is blank: expected a value in each line of a file with one column"
                raise CsvError(blank, f"{text}; remove the line, or write the value")
            width, blank = width or len(cells), 0
            yield end, cells
    except csv.Error as error:
        is_open = str(error) == "unexpected end of data"
        problem = "opens a quote that is never closed" if is_open else f"is not CSV: {error}"
        raise CsvError(end + 1, problem) from error


def header_of(remaining: Iterator[Record], dialect: Dialect = DEFAULT) -> list[str]:
    """The names of the columns, taken from `remaining`. Raises NoHeader, CsvError."""
    line, cells = next(remaining, (0, []))
    if not line:
        raise NoHeader("the file is empty: expected a header line with names")
    if dialect.header is None and are_numbers(cells, dialect.decimal):
        text = f"line {line} has only numbers: expected a header line with names"
        raise NoHeader(f"{text}; put one before it, or declare whether the first line is a header")
    return [name.strip() for name in cells]


def _utf8(lines: Iterable[str], skipped: int) -> Iterator[str]:
    for number, line in enumerate(lines, skipped + 1):
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                raise CsvError(number, "is not UTF-8") from error
        yield line
