"""Files of rows, whatever their format: CSV, Parquet, Arrow IPC and NPY."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO, cast

from trillium.errors import InvalidRequest
from trillium.tables.arrow_sheet import ARROW_MAGIC, PARQUET_MAGIC, STREAM_MAGIC, ArrowSheet
from trillium.tables.csv_records import text_of
from trillium.tables.csv_sheet import CsvSheet, IsHeader
from trillium.tables.dialect import DEFAULT, Dialect
from trillium.tables.gathering import UNLIMITED
from trillium.tables.npy_sheet import NPY_MAGIC, NpySheet
from trillium.tables.sheets import Sheet

_GZIP_MAGIC = b"\x1f\x8b"
LONGEST_MAGIC = 8
"""As many bytes show the format of a file."""


class Format(Enum):
    """Format of a file of rows."""

    CSV = "csv"
    NPY = "npy"
    PARQUET = "parquet"
    ARROW = "arrow"


SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
    ".npy": Format.NPY,
}
"""Formats by the end of the file's name; one of CSV may go on with .gz."""


def format_of(start: bytes) -> Format:
    """The format by the first bytes; anything else is CSV."""
    if start.startswith(NPY_MAGIC):
        return Format.NPY
    if start.startswith((ARROW_MAGIC, STREAM_MAGIC)):
        return Format.ARROW
    return Format.PARQUET if start.startswith(PARQUET_MAGIC) else Format.CSV


def format_of_name(path: Path) -> Format:
    """The format by the file's name. Raises ValueError, which lists the allowed ends."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        inner = SUFFIXES.get(suffixes[0]) if len(suffixes) == 2 else None
        if inner is Format.CSV:
            return inner
    elif suffixes and suffixes[-1] in SUFFIXES:
        return SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"{path}: expected a file name that ends in {', '.join(SUFFIXES)}, or in .csv.gz"
    )


def is_packed(start: bytes) -> bool:
    """Whether a file that begins so was packed with gzip."""
    return start.startswith(_GZIP_MAGIC)


def sheet_of(
    file: BinaryIO,
    size: int,
    format: Format,
    dialect: Dialect = DEFAULT,
    *,
    max_columns: int = UNLIMITED.max_columns,
    is_header: IsHeader | None = None,
) -> Sheet:
    """The sheet in an open file of `size` bytes. Raises InvalidRequest.

    `dialect` and `is_header` are for CSV, and `max_columns` for NPY: features, and one more.
    """
    match format:
        case Format.CSV:
            return CsvSheet(text_of(file), dialect, is_header=is_header)
        case Format.NPY:
            return NpySheet(file, size, max_columns)
        case _:
            return ArrowSheet(file, is_parquet=format is Format.PARQUET)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked if it was packed with gzip. Raises OSError, and InvalidRequest while it is
    read."""
    with path.open("rb") as file:
        start = file.read(LONGEST_MAGIC)
        file.seek(0)
        if not is_packed(start):
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            try:
                yield cast(BinaryIO, unpacked)
            except (gzip.BadGzipFile, EOFError) as error:
                raise InvalidRequest.of("rows", f"are not packed by gzip: {error}") from error


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size
