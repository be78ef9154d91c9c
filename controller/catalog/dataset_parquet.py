"""Datasets in Apache Parquet: columns of integers or floats, and the labels as text or integers.

pyarrow is large and needed for nothing else, so a controller may do without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog.gathering import BLOCK_VALUES, LABEL, Gathering, short
from trillium.columns import index_columns
from trillium.errors import InvalidRequest

PARQUET_MAGIC = b"PAR1"

_MAX_UNPACKED_BYTES = 2**31
"""What the columns may take after decompression, as the file itself says."""


def read_parquet(content: bytes, gathering: Gathering) -> None:
    """Tell `gathering` what is in the file. Raises InvalidRequest."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        text = "is Parquet, which this controller cannot read: pyarrow is not installed there"
        raise InvalidRequest.of("header.format", f"{text}; send CSV or NPY") from error
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        _check_columns(pa, file, gathering)
        texts = [LABEL] if gathering.label_column is not None else []
        if texts or gathering.left_out:
            # Texts as numbers into a list of them: however often a long text stands in the file, it
            # is unpacked once.
            texts += gathering.left_out
            file = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        _read_rows(pa, file, gathering)
    except (pa.ArrowException, OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InvalidRequest.of("rows", f"are no Parquet: {first_line}") from error


def _check_columns(pa: Any, file: Any, gathering: Gathering) -> None:
    schema, metadata = file.schema_arrow, file.metadata
    index = index_columns(schema.names, schema.metadata)
    gathering.left_out = tuple(name for name in index if name != LABEL)
    gathering.columns([name for name in schema.names if name not in gathering.left_out])
    for at, field in enumerate(schema):
        problem = _wrong_type(pa, field, gathering)
        if problem:
            gathering.wrong(f"columns[{at}]", problem)
    gathering.check_row_count(metadata.num_rows)
    unpacked = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    if unpacked > _MAX_UNPACKED_BYTES:
        text = f"take {unpacked} bytes unpacked; at most {_MAX_UNPACKED_BYTES} allowed"
        gathering.wrong("rows", text)
    gathering.check()


def _wrong_type(pa: Any, field: Any, gathering: Gathering) -> str:
    """What is wrong with the type of a column; "" if nothing is."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    shown = short(str(kind))
    if field.name == LABEL:
        fits = is_text or pa.types.is_integer(kind)
        return "" if fits else f"the label is a {shown}; text is wanted"
    if field.name in gathering.left_out:
        # It is unpacked with the other columns, so it must be no larger than they are.
        fits = is_text or is_number or pa.types.is_temporal(kind)
        wanted = "integers, floats, text or times are wanted of an index"
        return "" if fits else f"{short(field.name)} is a {shown}; {wanted}"
    return "" if is_number else f"{short(field.name)} is a {shown}; integers or floats are wanted"


def _read_rows(pa: Any, file: Any, gathering: Gathering) -> None:
    start = 0
    size = max(1, BLOCK_VALUES // len(gathering.feature_names))
    for batch in file.iter_batches(batch_size=size):
        gathering.check_row_count(start + batch.num_rows)
        batch.validate(full=True)  # What a damaged file decodes to may point anywhere.
        named = zip(batch.schema.names, batch.columns, strict=True)
        columns = [column for name, column in named if name not in gathering.left_out]
        if gathering.label_column is not None:
            _add_labels(pa, columns.pop(gathering.label_column), start, gathering)
        _add(columns, batch.num_rows, start, gathering)
        start += batch.num_rows


def _add_labels(pa: Any, column: Any, start: int, gathering: Gathering) -> None:
    if pa.types.is_dictionary(column.type):
        texts = column.dictionary.to_pylist()
        labels = [None if at is None else texts[at] for at in column.indices.to_pylist()]
    else:
        labels = column.to_pylist()
    gathering.add_labels(
        [None if label is None else str(label) for label in labels],
        range(start, start + len(labels)),
        place=lambda index: f"row {start + index}",
    )


def _add(columns: list[Any], count: int, start: int, gathering: Gathering) -> None:
    block: NDArray[np.float64] = np.empty((count, len(columns)), np.float64)
    for index, column in enumerate(columns):
        block[:, index] = column.to_numpy(zero_copy_only=False)
        if column.null_count:
            _forbid_nulls(column, block[:, index], start, gathering.feature_names[index], gathering)
    gathering.add(
        block,
        range(start, start + count),
        shown=lambda row, column: str(block[row, column]),
        place=lambda row: f"row {start + row}",
    )


def _forbid_nulls(
    column: Any, values: NDArray[np.float64], start: int, name: str, gathering: Gathering
) -> None:
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    values[is_null] = 0  # Told here, and not as NaN once more.
    for row in (np.flatnonzero(is_null) + start).tolist():
        text = f"row {row}, column {short(name)} is null; a number is wanted"
        gathering.wrong(gathering.field(row, name), text)
