"""Labelled tables: what can be trained on, and what is wrong with the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trillium.errors import InvalidRequest
from trillium.tables.columns import are_numbered, exact_places, names_of
from trillium.tables.dialect import DEFAULT, Dialect
from trillium.tables.frames import FrameSheet, as_array
from trillium.tables.gathering import (
    UNLIMITED,
    Choice,
    Columns,
    Content,
    Findings,
    check_names,
    gather,
    gather_columns,
)
from trillium.tables.reading import Format, format_of_name, opened, sheet_of, size_of
from trillium.tables.sheets import numbered, sentence
from trillium.training.errors import TableRefused
from trillium.training.packages import check_package

Rows: TypeAlias = npt.NDArray[np.float64]  # [row, feature]
ClassIndices: TypeAlias = npt.NDArray[np.int64]  # [row], positions in `class_labels`

HELD_OUT_SHARE = 0.3
LEAST_ROWS = math.ceil(1 / HELD_OUT_SHARE)
"""Of each class, so that at least one of them is held out."""
_FLOAT64 = np.dtype("<f8")
_SHOWN_TEXT = 60


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows with their classes: two classes or more, `LEAST_ROWS` rows or more of each.

    All values are finite, or NaN where missing values were allowed.
    """

    rows: Rows
    classes: ClassIndices
    class_labels: tuple[str, ...]
    feature_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Columns of the file that hold the index of a DataFrame, and so are no features."""
    notes: tuple[str, ...] = ()
    """What was recognized about the file, for a person."""


def read_table(
    path: Path,
    label_column: str,
    *,
    drop: Sequence[str] = (),
    dialect: Dialect = DEFAULT,
    takes_missing: bool = False,
) -> Table:
    """The table in a file, whose name shows its format (see `trillium.tables.reading`).

    NPY is a structured array, or a matrix of numbers, whose columns are named feature_0, feature_1,
    … or by their number, which counts from the end when negative; so are those of CSV that has no
    header by `dialect`. All columns but `label_column`, the class, and `drop` are features, and but
    for the index of a DataFrame, which `Table.left_out` names then.

    Raises:
        TableRefused: the file cannot be read as what it is called, or not be trained on.
        PackagesMissing: Parquet or Arrow, and pyarrow is not installed.
        OSError: the file cannot be opened.
    """
    try:
        format = format_of_name(path)
    except ValueError as error:
        raise TableRefused(str(error)) from error
    if format in (Format.PARQUET, Format.ARROW):
        check_package("pyarrow")
    choice = Choice(label_column, tuple(drop))
    try:
        with opened(path) as file:
            sheet = sheet_of(file, size_of(file), format, dialect)
            content = gather(
                sheet,
                choice,
                UNLIMITED,
                dtype=_FLOAT64,
                label_required=True,
                takes_missing=takes_missing,
            )
            notes = tuple(sheet.notes)
        return _table(content, f"column {_short(content.columns.label_name)}", notes)
    except InvalidRequest as error:
        raise TableRefused(f"{path}: {sentence(error)}") from error
    except TableRefused as error:
        raise TableRefused(f"{path}: {error}") from error


def from_matrix(
    features: Any, labels: Any, feature_names: Sequence[str] = (), *, takes_missing: bool = False
) -> Table:
    """A table of `features` [n, k] and `labels` [n].

    Names are those of a DataFrame's columns, or else feature_0, … if not given; given for a
    DataFrame, they define the order of its columns.

    Raises:
        TableRefused: it cannot be trained on.
    """
    try:
        matrix, truth = as_array(features), np.asarray(labels)
    except ValueError as error:
        raise TableRefused(str(error)) from error
    if matrix.ndim != 2:
        raise TableRefused(f"features have the shape {matrix.shape}: expected rows × features")
    if truth.shape != (len(matrix),):
        text = f"labels have the shape {truth.shape}: expected one label for each of"
        raise TableRefused(f"{text} the {len(matrix)} rows")
    own = _names_of(features)
    names = [str(name) for name in feature_names] or list(own) or numbered(matrix.shape[1])
    if len(names) != matrix.shape[1]:
        text = f"expected a name for each of {matrix.shape[1]} features"
        raise TableRefused(f"{text}, got {len(names)}")
    width = len(names)
    columns = Columns(tuple(range(width)), tuple(names), label=width, label_name="labels")
    try:
        findings = Findings()
        check_names(names, columns.features, None, findings)
        findings.check()
        cells = [matrix[:, at] for at in _order(own, names)]
        sheet = FrameSheet(names, cells, truth.tolist())
        content = gather_columns(
            sheet, columns, UNLIMITED, dtype=_FLOAT64, takes_missing=takes_missing
        )
        return _table(content, "labels")
    except InvalidRequest as error:
        raise TableRefused(sentence(error)) from error


def _table(content: Content, source: str, notes: tuple[str, ...] = ()) -> Table:
    assert content.labels is not None
    classes, class_labels = _classes(content.labels)
    _check_classes(classes, class_labels, source)
    columns = content.columns
    return Table(content.rows, classes, class_labels, columns.names, columns.left_out, notes)


def _names_of(features: Any) -> Sequence[str]:
    """The names of a DataFrame's columns; none where pandas has numbered them."""
    try:
        names = names_of(features)
    except ValueError as error:
        raise TableRefused(f"features: {error}") from error
    return () if are_numbered(names) else names


def _order(own: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where each feature is among columns of these names, which need not have any."""
    try:
        return exact_places(own, names) if own else list(range(len(names)))
    except ValueError as error:
        raise TableRefused(f"feature_names are not the table's: {error}") from error


def _classes(labels: Sequence[str]) -> tuple[ClassIndices, tuple[str, ...]]:
    """Every row's class, and the classes: in numeric order if all are numbers, else as texts."""
    found = sorted(set(labels))
    if all(_is_whole(text) for text in found):
        found.sort(key=int)
    at = {text: index for index, text in enumerate(found)}
    return np.fromiter((at[label] for label in labels), "<i8", len(labels)), tuple(found)


def _check_classes(classes: ClassIndices, class_labels: Sequence[str], source: str) -> None:
    if len(class_labels) < 2:
        text = f"there is one class alone, {_short(class_labels[0])}, in {source}"
        raise TableRefused(f"{text}: at least 2 classes are needed")
    for label, count in zip(class_labels, np.bincount(classes).tolist(), strict=True):
        if count < LEAST_ROWS:
            rows = "1 row" if count == 1 else f"{count} rows"
            text = (
                f"the class {_short(label)} in {source} has {rows}: at least {LEAST_ROWS} of each"
            )
            raise TableRefused(f"{text} class are needed, as {HELD_OUT_SHARE:.0%} are held out")


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
