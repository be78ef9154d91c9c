"""Rows from the command line and from CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from trillium.columns import are_numbered, are_numbers, listed, places, repeated


def from_words(words: Sequence[str]) -> list[list[float]]:
    """The one row that the words of a command line make; raises ValueError."""
    return [_numbers(words, "")]


def from_csv(
    lines: Iterable[str], source: str, feature_names: Callable[[], Sequence[str]]
) -> Iterator[list[float]]:
    """The rows of comma-separated lines, one after the other; empty lines do not count.

    A first line that names all of `feature_names`, or that holds no number if the model has no
    names, is a header: columns are taken by name, in any order, and others are left out. A line of
    other numbers is a row, and columns are taken as they stand. Raises ValueError for any other
    first line and for what is no row, naming `source` and the line.
    """
    records = _records(lines, source)
    first = next(records, None)
    columns = None if first is None else _columns(first, source, feature_names())
    row = first if columns is None else next(records, None)
    if first is None or row is None:
        raise ValueError(f"{source} holds no rows")
    width = len(first[1])
    for number, cells in chain([row], records):
        where = f"{source}, line {number}: "
        if len(cells) != width:
            raise ValueError(f"{where}{len(cells)} values, and the first line has {width}")
        yield _numbers(cells if columns is None else [cells[at] for at in columns], where)


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


def _columns(
    first: tuple[int, Sequence[str]], source: str, names: Sequence[str]
) -> Sequence[int] | None:
    """Where the features stand if the first line is a header; None if it is a row."""
    line, cells = first
    header = [cell.strip() for cell in cells]
    if are_numbers(header) and not (names and set(names) <= set(header)):
        if len(header) > 1 and are_numbered(sorted(header, key=float)):
            text = f"{source}, line {line} is {','.join(header)}: the numbers of columns without"
            raise ValueError(
                f"{text} names, or a row; write the columns' names there, or leave the line out"
            )
        return None
    try:
        return places(header, names) if names else _all_places(header)
    except ValueError as error:
        raise ValueError(
            f"{source}, line {line} is no header of the model: {error}; correct the names, or "
            "leave the header out to have the columns taken as they stand"
        ) from error


def _all_places(header: Sequence[str]) -> Sequence[int]:
    """The columns as they stand, for a model without names."""
    if again := repeated(header):
        raise ValueError(f"more than one column is named {listed(again)}")
    values = [cell for cell in header if not cell or are_numbers([cell])]
    if values:
        raise ValueError(f"expected numbers only or names only, got {listed(header)}")
    return range(len(header))


def _numbers(cells: Sequence[str], where: str) -> list[float]:
    numbers = []
    for cell in cells:
        try:
            numbers.append(float(cell))
        except ValueError:
            raise ValueError(f"{where}{cell.strip()!r} is no number") from None
    return numbers
