"""Rows from the command line and from CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence


def from_words(words: Sequence[str]) -> list[list[float]]:
    """The one row that the words of a command line make; raises ValueError."""
    return [_numbers(words, "")]


def from_csv(
    lines: Iterable[str], source: str, feature_names: Callable[[], Sequence[str]]
) -> list[list[float]]:
    """The rows of comma-separated lines; empty lines do not count.

    A first line that holds anything but numbers is a header. If it names all of `feature_names`,
    which is only called then, the columns are taken by their names and others are left out;
    otherwise they are taken as they stand. Raises ValueError, naming `source` and the line.
    """
    reader = csv.reader(lines)
    records = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    columns: Sequence[int] | None = None
    if records and _is_header(records[0][1]):
        columns = _columns([cell.strip() for cell in records[0][1]], feature_names())
        records = records[1:]
    if not records:
        raise ValueError(f"{source} holds no rows")
    width = len(records[0][1])
    rows = []
    for number, cells in records:
        where = f"{source}, line {number}: "
        if len(cells) != width:
            raise ValueError(f"{where}{len(cells)} values, and {width} in the line before it")
        rows.append(_numbers(cells if columns is None else _pick(cells, columns, where), where))
    return rows


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
