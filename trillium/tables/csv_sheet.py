"""CSV as a sheet, in the dialect of `trillium.tables.csv_records`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from trillium.errors import InvalidRequest
from trillium.tables.csv_records import CsvError, NoHeader, Record, header_of, recognized, records
from trillium.tables.dialect import DEFAULT, DELIMITERS, Dialect
from trillium.tables.numbers import Numbers
from trillium.tables.sheets import CellBlock, Wrong, numbered

_NUMERIC = b"0123456789.+-eE\r\n"
_LARGEST = float(np.finfo(np.float32).max)

IsHeader = Callable[[int, Sequence[str]], bool]
"""Whether the cells of a file's first line, whose number comes first, name its columns. May raise
ValueError with a sentence about the line."""


class CsvSheet:
    """Lines of CSV, read as they are asked for."""

    row_count = None
    index = ()

    def __init__(
        self,
        lines: Iterable[str],
        dialect: Dialect = DEFAULT,
        *,
        is_header: IsHeader | None = None,
    ) -> None:
        """`is_header` decides where the dialect does not; without it, the first line must be one.

        Raises InvalidRequest, and the ValueError of `is_header`.
        """
        self.notes: Sequence[str] = ()
        self.decimal = dialect.decimal
        try:
            self._lines, self._delimiter, self._end = recognized(lines, dialect)
            if self._delimiter not in (",", dialect.delimiter):
                self.notes = (f"cells are parted by a {DELIMITERS[self._delimiter]}",)
            self._begin(records(self._lines, self._delimiter, self._end), dialect, is_header)
        except NoHeader as error:
            raise InvalidRequest.of("columns", f"are missing: {error}") from error
        except CsvError as error:
            raise InvalidRequest.of("rows", str(error)) from error

    def _begin(
        self, remaining: Iterator[Record], dialect: Dialect, is_header: IsHeader | None
    ) -> None:
        """Read the names, or make them up."""
        first = next(remaining, None)
        cells = [] if first is None else [cell.strip() for cell in first[1]]
        self._end = self._end if first is None else first[0]
        self._first: Record | None = None
        if dialect.header or (dialect.header is None and is_header is None):
            self.names: Sequence[str] = header_of(iter(() if first is None else (first,)), dialect)
            self.has_names = True
            return
        if first is None:
            raise InvalidRequest.of("rows", "are missing; expected at least 1")
        self.has_names = (
            dialect.header is None and is_header is not None and is_header(first[0], cells)
        )
        self.names = cells if self.has_names else numbered(len(cells))
        self._first = None if self.has_names else first

    def check(self, features: Sequence[int], label: int | None, wrong: Wrong) -> None:
        """Nothing is declared."""

    def blocks(
        self, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """The cells of these columns: numbers from lines that hold nothing else, and texts from the
        first other line on."""
        row = 0
        while label is None and self.decimal == ".":
            first = [] if self._first is None else [self._delimiter.join(self._first[1]) + "\n"]
            lines = list(islice(self._lines, most - len(first)))
            numbers = _numbers([*first, *lines], self._delimiter, len(self.names))
            if numbers is None:
                self._lines = chain(lines, self._lines)
                break
            count = len(numbers)
            if not count:
                return
            self._end += len(lines)
            yield CellBlock(
                [numbers[:, at] for at in features],
                None,
                range(row, row + count),
                range(self._end + 1 - count, self._end + 1),
            )
            row, self._first = row + count, None
        try:
            yield from self._texts(row, features, label, wrong, most)
        except CsvError as error:
            raise InvalidRequest.of("rows", str(error)) from error

    def _texts(
        self, row: int, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """The cells of these columns as texts, from the row of that number on."""
        width = len(self.names)
        remaining = records(self._lines, self._delimiter, self._end, width)
        pending: list[list[str]] = []
        rows: list[int] = []
        lines: list[int] = []

        def block() -> CellBlock:
            columns = list(zip(*pending, strict=True))
            return CellBlock(
                [columns[at] for at in features],
                None if label is None else columns[label],
                rows,
                lines,
            )

        first = [] if self._first is None else [self._first]
        for number, (line, cells) in enumerate(chain(first, remaining), row):
            if len(cells) != width:
                text = f"row {number} (line {line}) has {len(cells)} values: expected {width}"
                wrong(f"rows[{number}]", text)
                continue
            pending.append(cells)
            rows.append(number)
            lines.append(line)
            if len(pending) == most:
                yield block()
                pending, rows, lines = [], [], []
        if pending:
            yield block()


def _numbers(lines: Sequence[str], delimiter: str, width: int) -> Numbers | None:
    """The numbers of lines with `width` of them each, [n, width]; None unless there is nothing else
    in them.

    numpy reads all of them at once, several times as fast as cells can be cut apart.
    """
    text = "".join(lines)
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if raw.translate(None, _NUMERIC + delimiter.encode()):
        return None
    commas = width - 1
    if any(line.count(delimiter) != commas for line in lines):
        return None
    for end in ("\r\n", "\n", "\r"):
        text = text.replace(end, delimiter)
    try:
        values: Numbers = np.fromstring(text.rstrip(delimiter), sep=delimiter)
    except (ValueError, DeprecationWarning):
        return None  # As future versions of numpy answer what is no number, and a strict process.
    if values.size != len(lines) * width or not (np.abs(values) <= _LARGEST).all():
        return None
    return values.reshape(len(lines), width)
