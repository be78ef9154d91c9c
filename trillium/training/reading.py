"""Labelled tables from files: CSV, Parquet and NPY."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from trillium.columns import are_numbers, index_columns
from trillium.training.errors import TableRefused
from trillium.training.packages import check_package
from trillium.training.table import Table, from_columns, numbered


def read_table(path: Path, label_column: str, *, drop: Collection[str] = ()) -> Table:
    """The table in a file whose name ends in .csv, .parquet or .npy.

    CSV is UTF-8 with a header, and commas between values. NPY is a matrix of numbers, whose columns
    are named feature_0, feature_1, … or by their number, which counts from the end when negative;
    or a structured array. All columns but `label_column`, the class, and `drop` are features; of
    Parquet, also but for the index of a DataFrame, which `Table.left_out` names then.

    Raises:
        TableRefused: the file cannot be read as what it is called, or not be trained on.
        PackagesMissing: Parquet, and pyarrow is not installed.
        OSError: the file cannot be opened.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise TableRefused(f"{path}: a table's file name ends in one of {', '.join(_READERS)}")
    try:
        return read(path, label_column, drop)
    except TableRefused as error:
        raise TableRefused(f"{path}: {error}") from error


def _read_csv(path: Path, label_column: str, drop: Collection[str]) -> Table:
    records, lines = [], []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    records.append(cells)
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise TableRefused(f"line {reader.line_num} is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise TableRefused(f"is not UTF-8 after line {reader.line_num}") from error
    if not records:
        raise TableRefused("is empty; a header line with names is wanted")
    header = [name.strip() for name in records[0]]
    if are_numbers(header):
        text = f"line {lines[0]} holds numbers only, so it is a row: expected a header line with"
        raise TableRefused(f"{text} names; put one before it, such as the names of the columns")
    for cells, line in zip(records, lines, strict=True):
        if len(cells) != len(header):
            text = f"line {line} has {len(cells)} values, and the header {len(header)}"
            raise TableRefused(f"{text}: one for each is wanted")
    columns = list(zip(*records[1:], strict=True)) or [()] * len(header)
    return from_columns(
        header, columns, label_column, drop=drop, place=lambda row: f"line {lines[row + 1]}"
    )


def _read_parquet(path: Path, label_column: str, drop: Collection[str]) -> Table:
    check_package("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file).read()
    except pa.ArrowException as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TableRefused(f"is no Parquet: {first_line}") from error
    index = index_columns(table.column_names, table.schema.metadata)
    left_out = tuple(name for name in index if name != label_column and name not in drop)
    columns = [column.to_numpy() for column in table.columns]
    read = from_columns(table.column_names, columns, label_column, drop=(*drop, *left_out))
    return replace(read, left_out=left_out)


def _read_npy(path: Path, label_column: str, drop: Collection[str]) -> Table:
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise TableRefused(f"is no array of numbers as NumPy writes it: {error}") from error
    if array.dtype.names is not None and array.ndim == 1:
        names = list(array.dtype.names)
        return from_columns(names, [array[name] for name in names], label_column, drop=drop)
    if array.ndim != 2:
        raise TableRefused(f"has the shape {array.shape}: rows × columns are wanted")
    names = numbered(array.shape[1])
    return from_columns(
        names,
        list(array.T),
        _named(label_column, names),
        drop=[_named(name, names) for name in drop],
    )


def _named(column: str, names: list[str]) -> str:
    """The name of a column that may be given by its number."""
    try:
        return names[int(column)]
    except (ValueError, IndexError):
        return column


_READERS: Mapping[str, Callable[[Path, str, Collection[str]], Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
}
