"""NumPy's NPY format as a sheet: a matrix [rows, columns] of numbers, or a structured array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trillium.errors import InvalidRequest
from trillium.tables.columns import index_columns
from trillium.tables.sheets import CellBlock, Wrong, numbered, short

NPY_MAGIC = b"\x93NUMPY"

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_FEATURES = "fiub"
_LABELS = "fiubSU"


class NpySheet:
    """The array in a file, of which only the header has been read."""

    notes = ()
    decimal = "."

    def __init__(self, file: BinaryIO, size: int, max_columns: int) -> None:
        """`size` is that of the file in bytes; `max_columns` does not count one for labels.

        Raises InvalidRequest.
        """
        magic = file.read(len(NPY_MAGIC))
        file.seek(0)
        if magic != NPY_MAGIC:
            raise InvalidRequest.of(
                "header.format", "is NPY, but the file does not begin as one does"
            )
        self._file = file
        # np.load would first take the memory that the header asks for, so only its header is read
        # by NumPy, which runs none of what stands there.
        try:
            read_header = _HEADERS[npy.read_magic(file)]
            shape, self._in_columns, self._dtype = read_header(file)
        except Exception as error:  # It is Python source text: there are many ways to be wrong.
            text = "cannot be read: the header is none that NumPy writes for a matrix of numbers"
            raise InvalidRequest.of("rows", text) from error
        fields = self._dtype.names
        self.has_names = fields is not None
        if len(shape) != (1 if fields else 2) or min(shape) < 0:
            text = f"have the shape {shape}; expected a matrix (rows, features)"
            raise InvalidRequest.of("rows", text)
        if fields is None and self._dtype.kind not in _FEATURES:
            text = f"are of type {self._dtype}; expected integers, floats or truth values"
            raise InvalidRequest.of("rows", text)
        self._begin = file.tell()
        held = size - self._begin
        if math.prod(shape) * self._dtype.itemsize != held:
            each = self._dtype.itemsize
            counts = " * ".join(map(str, shape))
            text = f"take {held} bytes; expected {counts} values of {each} bytes"
            raise InvalidRequest.of("rows", text)
        self.row_count = shape[0]
        self._width = len(fields) if fields else shape[1]
        if self._width > max_columns + 1:  # An array of no rows may claim any width.
            text = f"hold {self._width} features; at most {max_columns} allowed"
            raise InvalidRequest.of("columns", text)
        self.names: Sequence[str] = fields or numbered(self._width)
        self.index = index_columns(fields, None) if fields else ()

    def check(self, features: Sequence[int], label: int | None, wrong: Wrong) -> None:
        """Note the fields of a structured array that are no numbers, and labels that are none."""
        fields = self._dtype.names
        if not fields:
            return
        for at in [*features, *([] if label is None else [label])]:
            kind = self._dtype[at]
            allowed, words = (
                (_LABELS, "text or numbers for the label")
                if at == label
                else (_FEATURES, "integers, floats or truth values")
            )
            if kind.kind not in allowed or kind.shape:
                wrong(f"columns[{at}]", f"{short(fields[at])} is a {kind}; expected {words}")

    def blocks(
        self, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """The columns of the array, from a mapping of the file where it is one."""
        array = self._array()
        for start in range(0, len(array), most):
            some = array[start : start + most]
            yield CellBlock(
                [self._column(some, at) for at in features],
                None if label is None else _labels(self._column(some, label)),
                range(start, start + len(some)),
            )

    def _array(self) -> NDArray[Any]:
        self._file.seek(self._begin)
        flat = np.frombuffer(self._file.read(), self._dtype)
        if self._dtype.names:
            return flat
        order: Any = "F" if self._in_columns else "C"
        return flat.reshape((self.row_count, self._width), order=order)

    def _column(self, some: NDArray[Any], at: int) -> NDArray[Any]:
        names = self._dtype.names
        return some[names[at]] if names else some[:, at]


def _labels(column: NDArray[Any]) -> list[Any]:
    if column.dtype.kind != "S":
        return list(column.tolist())
    try:
        return [text.decode() for text in column.tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("rows", "hold a label that is not UTF-8") from error
