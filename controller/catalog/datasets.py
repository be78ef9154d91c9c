"""Datasets: what a file of rows holds, whatever its format. Pure; reading one takes a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from controller.catalog.dataset_csv import read_csv
from controller.catalog.dataset_npy import NPY_MAGIC, read_npy
from controller.catalog.dataset_parquet import PARQUET_MAGIC, read_parquet
from controller.catalog.gathering import DatasetLimits, Gathering
from trillium.rows import Rows


class Format(Enum):
    """Format of a dataset's file."""

    CSV = "csv"
    NPY = "npy"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset that has been read."""

    rows: Rows
    """float32 [n, features], all finite; at least one row and one feature."""
    feature_names: tuple[str, ...]
    """In column order; made up where the format has none."""
    labels: tuple[str, ...] | None
    """True class of each row; None if the file does not say."""
    format: Format
    left_out: tuple[str, ...] = ()
    """Columns of the file that hold the index of a DataFrame, and so are no features."""


_READERS: Mapping[Format, Callable[[bytes, Gathering], None]] = {
    Format.CSV: read_csv,
    Format.NPY: read_npy,
    Format.PARQUET: read_parquet,
}
_NO_LIMITS_SAID = DatasetLimits()


def parse(
    content: bytes, format: Format | None = None, limits: DatasetLimits = _NO_LIMITS_SAID
) -> Dataset:
    """The dataset in a file; None has the format told by the content.

    Computes: call it off the event loop. Needs about twice the memory that `limits` allow a
    dataset. Raises InvalidRequest with up to 20 violations, rows and columns counted from 0.
    """
    format = format or format_of(content)
    gathering = Gathering(limits)
    _READERS[format](content, gathering)
    rows, labels = gathering.gathered()
    return Dataset(rows, gathering.feature_names, labels, format, gathering.left_out)


def format_of(content: bytes) -> Format:
    """The format that the first bytes tell; what is nothing else is CSV."""
    if content.startswith(NPY_MAGIC):
        return Format.NPY
    return Format.PARQUET if content.startswith(PARQUET_MAGIC) else Format.CSV
