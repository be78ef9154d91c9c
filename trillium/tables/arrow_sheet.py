"""Apache Parquet and Arrow IPC as sheets.

pyarrow is large and needed for nothing else, so whoever reads neither may do without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from trillium.errors import InvalidRequest
from trillium.tables.columns import index_columns
from trillium.tables.sheets import CellBlock, Wrong, short

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
"""What the stream format of Arrow IPC begins with."""

_MAX_UNPACKED_BYTES = 2**31
"""What the columns may take after decompression, as the file itself declares."""


class ArrowSheet:
    """The columns of a Parquet or Arrow file, of which only the schema has been read."""

    notes = ()
    decimal = "."
    has_names = True

    def __init__(self, file: BinaryIO, *, is_parquet: bool) -> None:
        """Raises InvalidRequest."""
        try:
            import pyarrow as pa
        except ImportError as error:
            name = "Parquet" if is_parquet else "Arrow"
            text = f"is {name}, which cannot be read: pyarrow is not installed there"
            raise InvalidRequest.of("header.format", f"{text}; send CSV or NPY") from error
        self._pa = pa
        self._file = file
        self._what = "Parquet" if is_parquet else "Arrow"
        self._is_parquet = is_parquet
        try:
            self._opened = _parquet(file) if is_parquet else open_arrow(pa, file)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._refused(error) from error
        schema = self._opened.schema_arrow if is_parquet else self._opened.schema
        self._schema = schema
        self.names: Sequence[str] = schema.names
        self.index = index_columns(schema.names, schema.metadata)
        self.row_count = self._opened.metadata.num_rows if is_parquet else None

    def check(self, features: Sequence[int], label: int | None, wrong: Wrong) -> None:
        """Note columns of other types, and more bytes than may be unpacked."""
        for at in features:
            if problem := _wrong_feature(self._pa, self._schema.field(at)):
                wrong(f"columns[{at}]", problem)
        if label is not None and (problem := _wrong_label(self._pa, self._schema.field(label))):
            wrong(f"columns[{label}]", problem)
        if self._is_parquet:
            unpacked = self._unpacked([*features, *([] if label is None else [label])])
            if unpacked > _MAX_UNPACKED_BYTES:
                text = f"take {unpacked} bytes unpacked; at most {_MAX_UNPACKED_BYTES} allowed"
                wrong("rows", text)

    def blocks(
        self, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """Columns as arrays of numbers, or lists where a value is null; no other is unpacked."""
        start = 0
        try:
            for batch in self._batches(features, label, most):
                batch.validate(full=True)  # What a damaged file decodes to may point anywhere.
                yield CellBlock(
                    [_cells(batch.column(at)) for at in range(len(features))],
                    None if label is None else _labels(self._pa, batch.column(len(features))),
                    range(start, start + batch.num_rows),
                )
                start += batch.num_rows
        except (self._pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, InvalidRequest):
                raise
            raise self._refused(error) from error

    def _batches(self, features: Sequence[int], label: int | None, most: int) -> Iterator[Any]:
        """The wanted columns, in this order, at most `most` rows at a time."""
        wanted = [*features, *([] if label is None else [label])]
        if self._is_parquet:
            # Texts as numbers into a list of them: however often a long text stands in the file, it
            # is unpacked once.
            texts = [] if label is None else [self.names[label]]
            self._file.seek(0)
            opened = _parquet(self._file, texts)
            names = [self.names[at] for at in wanted]
            for batch in opened.iter_batches(batch_size=most, columns=names):
                yield batch.select(names)
            return
        reader = self._opened
        batches = (
            (reader.get_batch(at) for at in range(reader.num_record_batches))
            if hasattr(reader, "num_record_batches")
            else reader
        )
        for batch in batches:
            chosen = batch.select(wanted)
            for start in range(0, batch.num_rows, most):
                yield chosen.slice(start, most)

    def _unpacked(self, columns: Sequence[int]) -> int:
        metadata, names = self._opened.metadata, {self.names[at] for at in columns}
        return sum(
            column.total_uncompressed_size
            for group in map(metadata.row_group, range(metadata.num_row_groups))
            for column in map(group.column, range(metadata.num_columns))
            if column.path_in_schema in names  # Parts of nested columns have longer paths.
        )

    def _refused(self, error: Exception) -> InvalidRequest:
        first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return InvalidRequest.of("rows", f"are no {self._what}: {first_line}")


def _parquet(file: BinaryIO, texts: Sequence[str] = ()) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file, read_dictionary=list(texts))


def open_arrow(pa: Any, file: BinaryIO) -> Any:
    """A reader of a file or a stream of Arrow IPC. Raises ArrowException, OSError."""
    magic = file.read(len(ARROW_MAGIC))
    file.seek(0)
    if magic == ARROW_MAGIC:
        return pa.ipc.open_file(file)
    return pa.ipc.open_stream(file)


def _wrong_feature(pa: Any, field: Any) -> str:
    """What is wrong with the type of a column; "" if nothing is."""
    types = pa.types
    kind = field.type
    fits = (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    )
    wanted = "expected integers, floats, decimals or truth values"
    return "" if fits else f"{short(field.name)} is a {short(str(kind))}; {wanted}"


def _wrong_label(pa: Any, field: Any) -> str:
    types = pa.types
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    fits = (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
    )
    wanted = "expected text or whole numbers"
    return "" if fits else f"the label {short(field.name)} is a {short(str(kind))}; {wanted}"


def _cells(column: Any) -> Any:
    return column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False)


def _labels(pa: Any, column: Any) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    texts = column.dictionary.to_pylist()
    return [None if at is None else texts[at] for at in column.indices.to_pylist()]
