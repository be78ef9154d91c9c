"""Rows from the command line and from CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain


def from_words(words: Sequence[str]) -> list[list[float]]:
    """The one row that the words of a command line make; raises ValueError."""
    return [_numbers(words, "")]


def from_csv(
    lines: Iterable[str], source: str, feature_names: Callable[[], Sequence[str]]
) -> Iterator[list[float]]:
    """The rows of comma-separated lines, one after the other; empty lines do not count.

    A first line that holds anything but numbers is a header. If it names all of `feature_names`,
    which is only called then, the columns are taken by their names and others are left out;
    otherwise they are taken as they stand. Raises ValueError, naming `source` and the line.
    """
    records = _records(lines, source)
    first = next(records, None)
    columns: Sequence[int] | None = None
    if first is not None and _is_header(first[1]):
        columns = _columns([cell.strip() for cell in first[1]], feature_names())
        first = next(records, None)
    if first is None:
        raise ValueError(f"{source} holds no rows")
    width = len(first[1])
    for number, cells in chain([first], records):
        where = f"{source}, line {number}: "
        if len(cells) != width:
            raise ValueError(f"{where}{len(cells)} values, and {width} in the line before it")
        yield _numbers(cells if columns is None else _pick(cells, columns, where), where)


def _records(lines: Iterable[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of every line that is not empty, and its number."""
    reader = csv.reader(lines)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num} is no CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 after line {reader.line_num}") from error


def _is_header(cells: Sequence[str]) -> bool:
    try:
        _numbers(cells, "")
    except ValueError:
        return True
    return False


def _columns(header: Sequence[str], names: Sequence[str]) -> Sequence[int] | None:
    """Where the features are in a header; None if it does not name each of them once."""
    if not names or any(header.count(name) != 1 for name in names):
        return None
    return [header.index(name) for name in names]


def _pick(cells: Sequence[str], columns: Sequence[int], where: str) -> list[str]:
    if max(columns) >= len(cells):
        raise ValueError(f"{where}{len(cells)} values are fewer than the header names")
    return [cells[column] for column in columns]


def _numbers(cells: Sequence[str], where: str) -> list[float]:
    numbers = []
    for cell in cells:
        try:
            numbers.append(float(cell))
        except ValueError:
            raise ValueError(f"{where}{cell.strip()!r} is no number") from None
    return numbers
