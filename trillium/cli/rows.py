"""Rows from the command line: words, files of any format, standard input."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from trillium.errors import InvalidRequest
from trillium.rows import WIRE_DTYPE, Rows
from trillium.tables.dialect import DEFAULT, Dialect
from trillium.tables.numbers import is_number, number
from trillium.tables.reading import (
    LONGEST_MAGIC,
    SUFFIXES,
    Format,
    format_of,
    format_of_name,
    is_packed,
    opened,
    sheet_of,
    size_of,
)
from trillium.tables.scoring import header_of_model, rows_of
from trillium.tables.sheets import sentence

STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class RowsWanted:
    """What the rows of a file are for."""

    feature_names: Sequence[str] = ()
    """Of the model, in its order; empty if it has none."""
    most: int = 8192
    """Rows in a block."""
    takes_missing: bool = False
    """Whether the model takes missing values."""


def is_file(word: str) -> bool:
    """Whether a word of the command line means a file and no feature."""
    return word == str(STDIN) or (not is_number(word) and _has_suffix(word))


def from_words(words: Sequence[str]) -> Rows:
    """The one row that the words of a command line make; raises ValueError."""
    values = []
    for at, word in enumerate(words, 1):
        try:
            values.append(number(word))
        except ValueError:
            got = repr(word.strip()) if word.strip() else "nothing"
            raise ValueError(f"feature {at}: expected a number, got {got}") from None
    with np.errstate(over="ignore"):
        row = np.array([values], WIRE_DTYPE)
    for at in np.flatnonzero(np.isinf(row[0])).tolist():
        raise ValueError(f"feature {at + 1}: {words[at]} is too large; float32 holds 3.4e+38")
    return row


def from_file(
    path: Path,
    wanted: Callable[[int], RowsWanted],
    note: Callable[[str], None],
    *,
    dialect: Dialect = DEFAULT,
) -> Iterator[Rows]:
    """The rows of a file or, for "-", of standard input, a block at a time.

    `wanted` is asked once the file is open, with the number of its columns. `note` gets what was
    recognized and what is left out, a sentence each. Raises ValueError, which names the file and
    the line, and OSError.
    """
    source = "standard input" if path == STDIN else str(path)
    try:
        with _opened(path) as (file, size, format):
            is_header = header_of_model(lambda: wanted(1).feature_names, dialect.decimal)
            sheet = sheet_of(file, size, format, dialect, is_header=is_header)
            found = wanted(len(sheet.names))
            count = 0
            for each in sheet.notes:
                note(f"{source}: {each}")
            for rows in rows_of(
                sheet,
                found.feature_names,
                lambda text: note(f"{source}: {text}"),
                most=found.most,
                takes_missing=found.takes_missing,
            ):
                count += len(rows)
                yield rows
        if not count:
            raise InvalidRequest.of("rows", "are missing; expected at least 1")
    except InvalidRequest as error:
        raise ValueError(f"{source}: {sentence(error)}") from error
    except ValueError as error:
        raise ValueError(f"{source}, {error}") from error


def _has_suffix(word: str) -> bool:
    suffixes = [suffix.lower() for suffix in Path(word).suffixes[-2:]]
    return bool(suffixes) and (suffixes[-1] in SUFFIXES or suffixes[-1] == ".gz")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int, Format]]:
    if path != STDIN:
        format = format_of_name(path)
        with opened(path) as file:
            yield file, size_of(file), format
        return
    buffer = sys.stdin.buffer
    start = buffer.peek(LONGEST_MAGIC)[:LONGEST_MAGIC] if hasattr(buffer, "peek") else b""
    if is_packed(start):
        yield cast(BinaryIO, gzip.GzipFile(fileobj=buffer)), 0, Format.CSV
    elif (format := format_of(start)) is Format.CSV:
        yield buffer, 0, format
    else:
        content = buffer.read()  # These formats are not read from their beginning to their end.
        yield io.BytesIO(content), len(content), format
