"""Rows to score from a sheet, a block at a time, their columns matched with a model's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trillium.errors import InvalidRequest
from trillium.rows import Rows
from trillium.tables.columns import are_numbered, listed, places, repeated
from trillium.tables.csv_sheet import IsHeader
from trillium.tables.gathering import Columns, Converter, Findings
from trillium.tables.numbers import are_numbers
from trillium.tables.sheets import Sheet


def header_of_model(feature_names: Callable[[], Sequence[str]], decimal: str = ".") -> IsHeader:
    """Recognizes a header: it names all features of the model, or holds no number if the
    model has no names. A line of other numbers is a row; any other line is refused."""

    def is_header(line: int, cells: Sequence[str]) -> bool:
        names = feature_names()
        if are_numbers(cells, decimal) and not (names and set(names) <= set(cells)):
            if len(cells) > 1 and are_numbered(sorted(cells, key=_by_number)):
                text = f"line {line} is {','.join(cells)}: the numbers of columns without"
                raise ValueError(
                    f"{text} names, or a row; write the columns' names there, or leave the line "
                    "out, or declare whether it is a header"
                )
            return False
        try:
            if names:
                places(cells, names)
            else:
                _check_words(cells, decimal)
        except ValueError as error:
            raise ValueError(
                f"line {line} is no header of the model: {error}; correct the names, or leave the "
                "header out to have the columns taken as they stand"
            ) from error
        return True

    return is_header


def rows_of(
    sheet: Sheet,
    feature_names: Sequence[str],
    note: Callable[[str], None],
    *,
    most: int,
    takes_missing: bool = False,
) -> Iterator[Rows]:
    """The rows of a sheet, float32 [n, features], at most `most` in a block.

    Columns are taken by name, in any order, where both sides have names, and as they stand
    otherwise. `note` gets a sentence about the columns that are left out. A missing value is NaN if
    the model takes such. Raises InvalidRequest.
    """
    columns = _columns(sheet, feature_names, note)
    findings = Findings()
    sheet.check(columns.features, None, findings.wrong)
    findings.check()
    converter = Converter(columns, sheet.decimal, findings, takes_missing=takes_missing)
    for block in sheet.blocks(columns.features, None, findings.wrong, most):
        values = converter.values(block)
        findings.check()
        yield values
    findings.check()


def _columns(sheet: Sheet, feature_names: Sequence[str], note: Callable[[str], None]) -> Columns:
    names = list(sheet.names)
    if not sheet.has_names:
        known = tuple(feature_names) if len(feature_names) == len(names) else tuple(names)
        return Columns(tuple(range(len(names))), known)
    if feature_names:
        try:
            chosen = places(names, feature_names)
        except ValueError as error:
            raise InvalidRequest.of("columns", str(error)) from error
    else:
        chosen = [at for at, name in enumerate(names) if name not in sheet.index]
        if again := repeated([names[at] for at in chosen]):
            text = f"hold more than one that is named {listed(again)}: expected each name once"
            raise InvalidRequest.of("columns", text)
    taken = set(chosen)
    left_out = [name for at, name in enumerate(names) if at not in taken]
    if left_out:
        note(f"columns left out, as the model has no such features: {listed(left_out)}")
    return Columns(tuple(chosen), tuple(names[at] for at in chosen))


def _by_number(cell: str) -> float:
    return float(cell.replace(",", "."))


def _check_words(header: Sequence[str], decimal: str) -> None:
    """Raises ValueError unless a header without a model's names holds names only."""
    if again := repeated(header):
        raise ValueError(f"more than one column is named {listed(again)}")
    if any(not cell or are_numbers([cell], decimal) for cell in header):
        raise ValueError(f"expected numbers only or names only, got {listed(header)}")
