"""Datasets in CSV: UTF-8, a header line, commas, quotes where needed.

White space round names, numbers and labels does not count, nor do empty lines.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator

import numpy as np

from controller.catalog.gathering import BLOCK_VALUES, Gathering, short
from trillium.columns import are_numbers
from trillium.errors import InvalidRequest

_STEP_BYTES = 2**20


def read_csv(content: bytes, gathering: Gathering) -> None:
    """Tell `gathering` what is in the file. Raises InvalidRequest."""
    _check_utf8(content)
    # A byte order mark, which spreadsheets write, is no part of the first name.
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    records = _Records(csv.reader(lines, strict=True))
    header = next(records, None)
    if header is None:
        raise InvalidRequest.of("columns", "are missing; a header line with names is wanted")
    if are_numbers(header):
        text = f"are missing: line {records.line} holds numbers only, so it is a row and no header"
        raise InvalidRequest.of("columns", f"{text}; put a line with the names before it")
    gathering.columns([name.strip() for name in header])
    # Python reads "1_000" as a number, people and other programs do not.
    number = _number if b"_" in content else float
    pending = _Pending(gathering, number)
    width, most = len(header), gathering.max_rows
    for row, record in enumerate(records):
        if len(record) == width:
            pending.add(record, row, records.line)
        else:
            text = f"row {row} (line {records.line}) has {len(record)} columns; {width} are wanted"
            gathering.wrong(f"rows[{row}]", text)
        if row >= most:
            gathering.check_row_count(row + 1)
    pending.flush()


class _Records(Iterator[list[str]]):
    """The records of a file but for empty lines. Raises InvalidRequest where it is no CSV."""

    def __init__(self, reader: Iterator[list[str]]) -> None:
        self._reader = reader
        self.line = 0
        """The line, from 1, on which the last record ended."""

    def __next__(self) -> list[str]:
        try:
            record = next(self._reader)
            while not record:
                record = next(self._reader)
        except csv.Error as error:
            text = f"line {self._line_now()} is no CSV: {error}"
            raise InvalidRequest.of("rows", text) from error
        self.line = self._line_now()
        return record

    def _line_now(self) -> int:
        line: int = self._reader.line_num  # type: ignore[attr-defined]
        return line


class _Pending:
    """Records that are to be read together, which is faster."""

    def __init__(self, gathering: Gathering, number: Callable[[str], float]) -> None:
        self._gathering = gathering
        self._number = number
        self._most = max(1, BLOCK_VALUES // len(gathering.feature_names))
        self._cells: list[list[str]] = []
        self._rows: list[int] = []
        self._lines: list[int] = []

    def add(self, cells: list[str], row: int, line: int) -> None:
        """Take a row as it is written; `cells` are not the caller's any more."""
        self._cells.append(cells)
        self._rows.append(row)
        self._lines.append(line)
        if len(self._cells) >= self._most:
            self.flush()

    def flush(self) -> None:
        """Hand on what is pending."""
        if not self._cells:
            return
        at = self._gathering.label_column
        if at is not None:
            labels = [cells.pop(at) for cells in self._cells]
            self._gathering.add_labels(labels, self._rows, self._place)
        try:
            values = [list(map(self._number, cells)) for cells in self._cells]
        except ValueError:
            values = [
                [self._number_or_wrong(cell, index, column) for column, cell in enumerate(cells)]
                for index, cells in enumerate(self._cells)
            ]
        self._gathering.add(np.array(values, np.float64), self._rows, self._shown, self._place)
        self._cells, self._rows, self._lines = [], [], []

    def _number_or_wrong(self, cell: str, index: int, column: int) -> float:
        try:
            return self._number(cell)
        except ValueError:
            name = self._gathering.feature_names[column]
            what = f"is {self._shown(index, column)}" if cell.strip() else "is empty"
            text = f"{self._place(index)}, column {short(name)} {what}; a number is wanted"
            self._gathering.wrong(self._gathering.field(self._rows[index], name), text)
            return 0.0

    def _shown(self, index: int, column: int) -> str:
        return short(self._cells[index][column])

    def _place(self, index: int) -> str:
        return f"row {self._rows[index]} (line {self._lines[index]})"


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError("no number")
    return float(text)


def _check_utf8(content: bytes) -> None:
    """Raises InvalidRequest with the line that is not UTF-8; in steps, for the sake of memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content) + 1, _STEP_BYTES):
        end = start + _STEP_BYTES
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(content[start:end], final=end > len(content))
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, max(0, start - held + error.start)) + 1
            raise InvalidRequest.of("rows", f"line {line} is not UTF-8") from error
