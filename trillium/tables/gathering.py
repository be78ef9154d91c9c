"""From the cells of a sheet to rows of numbers: which columns are features, and what they hold.

Rows and columns are counted from 0, as everywhere on the wire. Every violation is kept; with the
twentieth the reading ends: a file with that many has to be fixed first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trillium.errors import InvalidRequest, Violation
from trillium.rows import WIRE_DTYPE
from trillium.tables.columns import is_unnamed, listed
from trillium.tables.numbers import is_missing, numbers_of
from trillium.tables.sheets import BLOCK_VALUES, CellBlock, Sheet, cut, short
from trillium.violations import MAX_VIOLATIONS

Values: TypeAlias = NDArray[Any]
"""Shape [n, features], float32 or float64."""

LABEL = "label"
"""The column that holds the true class, unless another one is chosen."""
LONGEST_TEXT = 200
"""Characters that the name of a column and a label may have."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which columns of a file are what."""

    label: str = ""
    """The column of the true class, by name or, in a file without names, by number, which counts
    from the end if negative; empty: `LABEL`, if there is one."""
    drop: tuple[str, ...] = ()
    """Columns that are no features, named as `label` is."""


@dataclass(frozen=True, slots=True)
class TableLimits:
    """How large a table may be."""

    max_rows: int = 1_000_000
    max_columns: int = 4096
    """Features in a row."""
    max_values: int = 2**27
    """Rows times features; each takes four bytes of memory."""


UNLIMITED = TableLimits(2**62, 2**20, 2**62)
"""For a file of the caller's own: columns are counted even so, as a few bytes can claim any."""
_DEFAULT = TableLimits()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a sheet are read."""

    features: tuple[int, ...]
    names: tuple[str, ...]
    """Of the features."""
    label: int | None = None
    label_name: str = LABEL
    left_out: tuple[str, ...] = ()
    """Those that hold the index of a DataFrame, and so are no features."""


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a file holds."""

    rows: Values
    """Finite, or NaN where values may be missing; at least one row and one feature."""
    columns: Columns
    labels: tuple[str, ...] | None
    """The true class of each row; None if the file has none."""
    first_missing: str = ""
    """Where the first missing value is; empty if there is none."""


class Findings:
    """The violations of a file so far."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note a violation. Raises InvalidRequest when there are enough of them."""
        self._found.append(Violation(field, description))
        if len(self._found) == MAX_VIOLATIONS:
            raise InvalidRequest(self._found)

    def end(self, field: str, description: str) -> None:
        """Raises InvalidRequest with this violation and all before it."""
        raise InvalidRequest([*self._found, Violation(field, description)])

    def check(self) -> None:
        """Raises InvalidRequest if anything is wrong so far."""
        if self._found:
            raise InvalidRequest(self._found)


def gather(
    sheet: Sheet,
    choice: Choice,
    limits: TableLimits = _DEFAULT,
    *,
    dtype: np.dtype[Any] = WIRE_DTYPE,
    label_required: bool = False,
    takes_missing: bool = False,
) -> Content:
    """All rows of a sheet and, if there are any, their labels. Raises InvalidRequest.

    With `takes_missing`, values may be missing, which is NaN.
    """
    findings = Findings()
    columns = choose(sheet, choice, findings, label_required=label_required)
    width = len(columns.features)
    if width > limits.max_columns:
        findings.end("columns", f"hold {width} features; at most {limits.max_columns} allowed")
    findings.check()
    return gather_columns(sheet, columns, limits, dtype=dtype, takes_missing=takes_missing)


def gather_columns(
    sheet: Sheet,
    columns: Columns,
    limits: TableLimits,
    *,
    dtype: np.dtype[Any] = WIRE_DTYPE,
    takes_missing: bool = False,
) -> Content:
    """All rows of these columns of a sheet, as `gather`. Raises InvalidRequest."""
    findings = Findings()
    width = len(columns.features)
    if not width:
        findings.end("columns", "hold no feature: expected at least one")
    sheet.check(columns.features, columns.label, findings.wrong)
    most = min(limits.max_rows, limits.max_values // width)
    check_count(sheet.row_count or 0, most, findings)
    findings.check()
    converter = Converter(
        columns, sheet.decimal, findings, dtype=dtype, takes_missing=takes_missing
    )
    labels = LabelGathering(columns, findings)
    blocks: list[Values] = []
    step = max(1, BLOCK_VALUES // width)
    for block in sheet.blocks(columns.features, columns.label, findings.wrong, step):
        check_count(block.rows[-1] + 1, most, findings)
        labels.add(block)
        blocks.append(converter.values(block))
    findings.check()
    if not blocks:
        raise InvalidRequest.of("rows", "are missing; expected at least 1")
    return Content(np.concatenate(blocks), columns, labels.all(), converter.first_missing)


def check_count(count: int, most: int, findings: Findings) -> None:
    """Raises InvalidRequest for more rows than `most`."""
    if count > most:
        text = f"are more than {most}, the most that are taken with that many columns"
        findings.end("rows", text)


def choose(
    sheet: Sheet, choice: Choice, findings: Findings, *, label_required: bool = False
) -> Columns:
    """The columns of a sheet that are features, and the one of labels."""
    names = list(sheet.names)
    label = _labels_column(sheet, choice, findings, required=label_required)
    dropped = {_named(name, sheet, findings) for name in choice.drop}
    index = {name for name in sheet.index if name != label}
    features = [
        at
        for at, name in enumerate(names)
        if name != label and name not in dropped and name not in index
    ]
    left_out = index - dropped
    check_names(names, features, label, findings)
    if not features:
        besides = "" if label is None else f" besides {label!r}"
        findings.wrong("columns", f"hold no feature: expected one{besides}")
    return Columns(
        features=tuple(features),
        names=tuple(names[at] for at in features),
        label=None if label is None else names.index(label),
        label_name=label or LABEL,
        left_out=tuple(name for name in names if name in left_out),
    )


def _labels_column(
    sheet: Sheet, choice: Choice, findings: Findings, *, required: bool
) -> str | None:
    if choice.label:
        return _named(choice.label, sheet, findings)
    if LABEL in sheet.names:
        return LABEL
    if required:
        _named(LABEL, sheet, findings)
    return None


def _named(column: str, sheet: Sheet, findings: Findings) -> str | None:
    """The name of a column; one without a name may be given by its number."""
    names = sheet.names
    if column in names:
        return column
    if not sheet.has_names:
        try:
            return names[int(column)]
        except (ValueError, IndexError):
            pass
    findings.wrong("columns", f"hold no column {short(column)}: there are {listed(names)}")
    return None


def check_names(
    names: Sequence[str], features: Sequence[int], label: str | None, findings: Findings
) -> None:
    """Note names of features that are missing, too long, repeated, or pandas' own for an index."""
    for at in features:
        name = names[at]
        if is_unnamed(name):
            text = f"is {short(name)}, as pandas names an index without a name; a feature is"
            findings.wrong(f"columns[{at}]", f"{text} wanted: leave it out, or rename it")
        if not name or len(name) > LONGEST_TEXT:
            text = f"has a name of {len(name)} characters; expected 1 to {LONGEST_TEXT}"
            if not name and at == 0:
                text += "; an index is left out by pandas with index=False"
            findings.wrong(f"columns[{at}]", text)
    for name, count in Counter(names[at] for at in features).items():
        _check_repeated(name, count, names, findings)
    if label is not None:
        _check_repeated(label, names.count(label), names, findings)


def _check_repeated(name: str, count: int, names: Sequence[str], findings: Findings) -> None:
    if name and count > 1:
        places = ", ".join(str(at) for at, each in enumerate(names) if each == name)
        text = f"the name {short(name)} stands {count} times: columns {places[:80]}"
        findings.wrong("columns", text)


class Converter:
    """Turns the features of blocks into numbers, and notes what cannot be one.

    With `takes_missing`, missing values are NaN; they are noted otherwise.
    """

    def __init__(
        self,
        columns: Columns,
        decimal: str,
        findings: Findings,
        *,
        dtype: np.dtype[Any] = WIRE_DTYPE,
        takes_missing: bool = False,
    ) -> None:
        self._names = columns.names
        self._decimal = decimal
        self._findings = findings
        self._dtype = dtype
        self._takes_missing = takes_missing
        self.first_missing = ""
        """Where the first missing value of a row that was taken is."""

    def values(self, block: CellBlock) -> Values:
        """The features of a block, [n, features]; what was noted is 0. Raises InvalidRequest."""
        values = np.empty((len(block.rows), len(block.features)), self._dtype)
        odd: list[tuple[int, int, str]] = []
        for at, cells in enumerate(block.features):
            numbers, none = numbers_of(cells, self._decimal)
            fits = np.abs(numbers) <= _LARGEST  # Written so that a NaN does not.
            if self._takes_missing:
                fits |= np.isnan(numbers)
            if none is not None or not fits.all():
                odd += self._odd(cells, at, numbers, none, fits)
            with np.errstate(over="ignore", invalid="ignore"):
                values[:, at] = numbers
        if self._takes_missing and not self.first_missing:
            missing = np.isnan(values)
            if missing.any():
                index, at = np.argwhere(missing)[0].tolist()
                self.first_missing = f"{block.place(index)}, column {short(self._names[at])}"
        for index, at, problem in sorted(odd):
            name = self._names[at]
            text = f"{block.place(index)}, column {short(name)}{problem}"
            self._findings.wrong(field(block.rows[index], name), text)
        return values

    @staticmethod
    def _odd(
        cells: Any, at: int, numbers: Values, none: Values | None, fits: Values
    ) -> Iterator[tuple[int, int, str]]:
        """Row and column in the block, and the problem, of the first values that do not fit."""
        wrong = ~fits if none is None else ~fits | none
        for index in np.flatnonzero(wrong)[:MAX_VIOLATIONS].tolist():
            cell = cells[index]
            if (none is not None and none[index]) or (isinstance(cell, str) and is_missing(cell)):
                problem = f": expected a number, got {_shown(cell)}"
            elif any(sign.isdigit() for sign in str(cell)):
                problem = f" is {_shown(cell)}; float32 holds {_LARGEST:.3g} at most"
            elif cell is None:
                problem = " is null; expected a number"
            else:
                problem = f" is {_shown(cell)}; finite numbers only"
            yield index, at, problem


class LabelGathering:
    """Gathers the labels of blocks."""

    def __init__(self, columns: Columns, findings: Findings) -> None:
        self._columns = columns
        self._findings = findings
        self._known: dict[Any, str] = {}
        self._all: list[str] = []

    def add(self, block: CellBlock) -> None:
        """Take the labels of a block, if it has any. Raises InvalidRequest."""
        known = self._known
        for index, value in enumerate(block.labels or ()):
            # A million rows share a few texts; True and 1 are one key and two labels.
            key = (type(value), value)
            if key not in known:
                text = _label(value)
                if problem := _wrong_label(text, value):
                    name = self._columns.label_name
                    self._findings.wrong(
                        field(block.rows[index], name), f"{block.place(index)}: {problem}"
                    )
                    continue
                known[key] = text
            self._all.append(known[key])

    def all(self) -> tuple[str, ...] | None:
        """The label of each row; None without a column of labels."""
        return None if self._columns.label is None else tuple(self._all)


def _label(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if is_missing(value) else str(value).strip()


def _wrong_label(text: str, value: Any) -> str:
    if not text:
        return "the label is empty"
    if isinstance(value, float) and not value.is_integer():
        return f"the label is {value}; expected text or a whole number"
    if len(text) > LONGEST_TEXT:
        return f"the label has {len(text)} characters; at most {LONGEST_TEXT} allowed"
    return ""


def field(row: int, name: str) -> str:
    """The path of a value in violations."""
    return f"rows[{row}].{cut(name)}"


def _shown(cell: Any) -> str:
    """A cell as its author wrote it."""
    if isinstance(cell, str):
        return short(str(cell)) if cell.strip() else "nothing"
    return cut(str(cell))
