"""Datasets: what a file of rows holds, whatever its format. Pure; reading one takes a while."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from trillium.errors import InvalidRequest
from trillium.rows import Rows
from trillium.tables.dialect import Dialect
from trillium.tables.gathering import Choice, TableLimits, gather
from trillium.tables.reading import Format, format_of, sheet_of

__all__ = ["Dataset", "Format", "Layout", "TableLimits", "format_of", "parse"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the file of a dataset is read, as far as its registration defines it."""

    choice: Choice = field(default_factory=Choice)
    dialect: Dialect = field(default_factory=Dialect)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset that has been read."""

    rows: Rows
    """float32 [n, features], finite or NaN; at least one row and one feature."""
    feature_names: tuple[str, ...]
    """In column order; made up where the file has none."""
    has_names: bool
    """Whether the names are the file's own."""
    labels: tuple[str, ...] | None
    """True class of each row; None if the file has none."""
    format: Format
    left_out: tuple[str, ...] = ()
    """Columns of the file that hold the index of a DataFrame, and so are no features."""
    notes: tuple[str, ...] = ()
    """What was recognized about the file, for a person."""
    first_missing: str = ""
    """Where the first missing value is; empty if there is none."""


_DEFAULT_LIMITS = TableLimits()
_DEFAULT_LAYOUT = Layout()


def parse(
    content: bytes,
    format: Format | None = None,
    limits: TableLimits = _DEFAULT_LIMITS,
    layout: Layout = _DEFAULT_LAYOUT,
) -> Dataset:
    """The dataset in a file; None derives the format from the content.

    Computes: call it off the event loop. Needs about twice the memory that `limits` allow a
    dataset. Raises InvalidRequest with up to 20 violations, rows and columns counted from 0.
    """
    format = format or format_of(content)
    if format is Format.ARROW:
        # Its buffers declare no size before they are unpacked; clients send Parquet in its place.
        text = "is Arrow, which is read on the side of the client; send CSV, NPY or Parquet"
        raise InvalidRequest.of("header.format", text)
    file: Any = io.BytesIO(content)
    sheet = sheet_of(file, len(content), format, layout.dialect, max_columns=limits.max_columns)
    # Whether rows with missing values can be scored depends on the model of a run.
    read = gather(sheet, layout.choice, limits, takes_missing=True)
    notes = list(sheet.notes)
    if read.columns.left_out:
        named = ", ".join(map(repr, read.columns.left_out))
        notes.append(f"left out, as the index of a DataFrame: {named}")
    if read.first_missing:
        text = f"values are missing, the first in {read.first_missing}"
        notes.append(f"{text}: only models that take such score it")
    return Dataset(
        rows=read.rows,
        feature_names=read.columns.names,
        has_names=sheet.has_names,
        labels=read.labels,
        format=format,
        left_out=read.columns.left_out,
        notes=tuple(notes),
        first_missing=read.first_missing,
    )
