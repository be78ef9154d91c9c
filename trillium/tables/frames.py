"""Tables in memory: arrays, lists, sparse matrices, and DataFrames of pandas, polars and Arrow.

None of those libraries is imported: whatever has names in one of their attributes and becomes an
array by NumPy's protocol will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trillium.tables.numbers import numbers_of
from trillium.tables.sheets import CellBlock, Wrong

_NUMERIC = "fiub"
_MOST_VALUES = 2**28
"""Of a sparse matrix, which may claim any size."""


class FrameSheet:
    """Columns in memory as a sheet, the labels after them."""

    has_names = True
    index = ()
    notes = ()
    decimal = "."

    def __init__(self, names: Sequence[str], columns: Sequence[Any], labels: Sequence[Any]) -> None:
        """`columns` and `labels` have one value for each row."""
        self.names = names
        self.row_count = len(labels)
        self._columns = columns
        self._labels = labels

    def check(self, features: Sequence[int], label: int | None, wrong: Wrong) -> None:
        """Nothing is declared."""

    def blocks(
        self, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """Parts of the columns."""
        for start in range(0, self.row_count, most):
            part = slice(start, min(start + most, self.row_count))
            yield CellBlock(
                [self._columns[at][part] for at in features],
                None if label is None else self._labels[part],
                range(part.start, part.stop),
            )


def as_array(values: Any) -> Any:
    """What NumPy makes of a table or a row, masked values still masked; [n, k] or [k].

    Raises ValueError if the rows differ in length, or a sparse matrix is too large to be unpacked.
    """
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        rows, columns = values.shape
        if rows * columns > _MOST_VALUES:
            text = f"a sparse matrix of shape ({rows}, {columns}) has {rows * columns} values"
            raise ValueError(f"{text} unpacked: expected at most {_MOST_VALUES}; pass fewer rows")
        return values.toarray()
    if isinstance(values, np.ma.MaskedArray):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"rows make no matrix; are all of one length? ({error})") from error
    return array


def as_numbers(values: Any) -> NDArray[Any]:
    """A table or a row as an array of numbers, whose missing values are NaN.

    Decimals, nullable integers and truth values become numbers; texts are none, even of digits.
    Raises TypeError, which names the column, for what is no number; ValueError as `as_array`.
    """
    array = as_array(values)
    if isinstance(array, np.ma.MaskedArray):
        if array.dtype.kind in _NUMERIC:
            filled: NDArray[Any] = np.ma.filled(array.astype(np.float64), np.nan)
            return filled
    elif array.dtype.kind in _NUMERIC:
        numeric: NDArray[Any] = array
        return numeric
    if array.dtype.kind != "O" or not 1 <= array.ndim <= 2:
        text = f"rows must be numbers, and these are of dtype {array.dtype}"
        raise TypeError(f"{text}; convert them first, for example with .astype('float32')")
    numbers = np.empty(array.shape, np.float64)
    columns = array.T if array.ndim == 2 else [array]
    for at, cells in enumerate(columns):
        column, wrong = numbers_of(cells)
        texts = np.array([isinstance(cell, str) for cell in cells.tolist()], np.bool_)
        wrong = texts if wrong is None else wrong | texts
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TypeError(
                f"rows must be numbers, and column {at} holds {cells[row]!r:.60} in row {row}; "
                "convert it first, or leave it out"
            )
        numbers[(..., at) if array.ndim == 2 else ...] = column
    return numbers
