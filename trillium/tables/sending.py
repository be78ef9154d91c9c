"""Tables on their way to a controller, which reads CSV, NPY and Parquet: others become Parquet."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from trillium.tables.reading import Format, format_of_name, opened


def sendable(table: Path | Any) -> tuple[Format, Callable[[], BinaryIO]]:
    """The format in which a file or a DataFrame is sent, and what opens it in that format.

    Raises ValueError for a file with another name, and TypeError for what is no table.
    """
    if not isinstance(table, (str, Path)):
        if not hasattr(table, "__arrow_c_stream__") and not hasattr(table, "columns"):
            text = f"a dataset is the path of a file or a DataFrame, not a {type(table).__name__}"
            raise TypeError(text)
        return Format.PARQUET, partial(_as_parquet, table)
    path = Path(table)
    format = format_of_name(path)
    if format is Format.ARROW:
        return Format.PARQUET, partial(_arrow_as_parquet, path)
    return format, partial(_unpacked, path)


def _unpacked(path: Path) -> BinaryIO:
    """The file as it is, or unpacked into another one."""
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    unpacked = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    with opened(path) as file:
        shutil.copyfileobj(file, unpacked)
    unpacked.seek(0)
    return unpacked


def _arrow_as_parquet(path: Path) -> BinaryIO:
    import pyarrow as pa

    from trillium.tables.arrow_sheet import open_arrow

    with path.open("rb") as file:
        reader = open_arrow(pa, file)
        return _as_parquet(reader.read_all())


def _as_parquet(table: Any) -> BinaryIO:
    import pyarrow as pa
    from pyarrow import parquet

    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    parquet.write_table(pa.table(table), file)
    file.seek(0)
    return file
