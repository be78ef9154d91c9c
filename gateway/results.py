"""The results of a run as JSON, CSV or Parquet, written as they arrive."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np

from trillium.controller.v1 import run_service_pb2 as pb
from trillium.errors import Code

from .messages import shortest
from .problems import HttpError

LONGEST_S = 3600.0
"""Deadline of a download whose caller set none, in seconds."""
ROW_GROUP_ROWS = 65_536
COLUMNS = ("row", "probability", "label")

_ROW = {
    "type": "object",
    "properties": {
        "row": {"type": "integer", "minimum": 0},
        "probability": {"type": "number"},
        "label": {"type": "string"},
    },
    "required": list(COLUMNS),
}
FORMATS: Mapping[str, tuple[str, Any]] = {
    "json": ("application/json", {"type": "array", "items": _ROW}),
    "csv": ("text/csv", {"type": "string"}),
    "parquet": ("application/vnd.apache.parquet", {"type": "string", "format": "binary"}),
}
"""Media type and schema by name."""

Batches = AsyncGenerator[pb.StreamResultsResponse]
Writer = Callable[[Batches], AsyncGenerator[bytes]]


def writer(kind: str) -> Writer:
    """The writer of a format. Raises HttpError for Parquet if pyarrow is not installed."""
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            text = "Parquet requires pyarrow in the gateway; install it, or use json or csv"
            raise HttpError(501, Code.UNIMPLEMENTED, "NO_PARQUET", text) from error
    return {"json": _json, "csv": _csv, "parquet": _parquet}[kind]


async def _json(batches: Batches) -> AsyncGenerator[bytes]:
    """An array of objects, one per line."""
    opening = "[\n"
    async with aclosing(batches):
        async for batch in batches:
            rows = [
                json.dumps(
                    dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False, separators=(",", ":")
                )
                for row in _rows(batch)
            ]
            yield (opening + ",\n".join(rows)).encode()
            opening = ",\n"
    yield b"[]\n" if opening == "[\n" else b"\n]\n"


async def _csv(batches: Batches) -> AsyncGenerator[bytes]:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\r\n")
    lines.writerow(COLUMNS)
    async with aclosing(batches):
        async for batch in batches:
            lines.writerows(_rows(batch))
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _rows(batch: pb.StreamResultsResponse) -> Sequence[tuple[int, float, str]]:
    probabilities = shortest([each.probability for each in batch.results])
    return [
        (each.row, probability, each.label)
        for each, probability in zip(batch.results, probabilities, strict=True)
    ]


async def _parquet(batches: Batches) -> AsyncGenerator[bytes]:
    """Row groups of about 65,536 rows, one of which is held in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.uint64(), pa.float32(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    sink = _Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema) as file:
        waiting: list[Any] = []
        async with aclosing(batches):
            async for batch in batches:
                waiting += batch.results
                if len(waiting) >= ROW_GROUP_ROWS:
                    file.write_table(_table(pa, schema, waiting))
                    waiting = []
                    yield sink.taken()
        if waiting:
            file.write_table(_table(pa, schema, waiting))
    yield sink.taken()


def _table(pa: Any, schema: Any, results: Sequence[Any]) -> Any:
    columns = [
        np.array([each.row for each in results], np.uint64),
        np.array([each.probability for each in results], np.float32),
        [each.label for each in results],
    ]
    return pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema)


class _Sink(io.RawIOBase):
    """A file that is read while it is written; writing Parquet never seeks back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        raw = bytes(part)
        self._parts.append(raw)
        self._size += len(raw)
        return len(raw)

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """What was written since the previous call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
