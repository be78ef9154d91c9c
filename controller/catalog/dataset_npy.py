"""Datasets in NumPy's NPY format: a matrix [rows, features] of numbers, without labels."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from controller.catalog.gathering import BLOCK_VALUES, Gathering
from trillium.errors import InvalidRequest

NPY_MAGIC = b"\x93NUMPY"

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(content: bytes, gathering: Gathering) -> None:
    """Tell `gathering` what is in the file. Raises InvalidRequest."""
    if not content.startswith(NPY_MAGIC):
        raise InvalidRequest.of("header.format", "is NPY, but the file does not begin as one does")
    array = _matrix(content, gathering)
    step = max(1, BLOCK_VALUES // array.shape[1])
    for start in range(0, len(array), step):
        _add(array[start : start + step], start, gathering)


def _add(block: NDArray[Any], start: int, gathering: Gathering) -> None:
    gathering.add(
        block,
        range(start, start + len(block)),
        shown=lambda index, column: str(block[index, column]),
        place=lambda index: f"row {start + index}",
    )


def _matrix(content: bytes, gathering: Gathering) -> NDArray[Any]:
    """A view of the file's numbers.

    np.load would first take the memory that the header asks for, so only its header is read by
    NumPy, which runs none of what stands there.
    """
    stream = io.BytesIO(content)
    try:
        read_header = _HEADERS[npy.read_magic(stream)]
        shape, in_columns, dtype = read_header(stream)
    except Exception as error:  # It is Python source text: there are many ways to be wrong.
        text = "cannot be read: the header is none that NumPy writes for a matrix of numbers"
        raise InvalidRequest.of("rows", text) from error
    if dtype.kind not in "fiu":
        raise InvalidRequest.of("rows", f"are of type {dtype}; integers or floats are wanted")
    if len(shape) != 2 or min(shape) < 0:
        text = f"have the shape {shape}; a matrix (rows, features) is wanted"
        raise InvalidRequest.of("rows", text)
    rows, columns = shape
    held = len(content) - stream.tell()
    if math.prod(shape) * dtype.itemsize != held:
        text = f"take {held} bytes; {rows} * {columns} values of {dtype.itemsize} bytes were said"
        raise InvalidRequest.of("rows", text)
    gathering.check_feature_count(columns)  # First: a matrix of no rows may claim any width.
    gathering.columns([f"feature_{index}" for index in range(columns)])
    gathering.check_row_count(rows)
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if in_columns else "C")
