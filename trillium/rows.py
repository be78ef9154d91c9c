"""Rows of features on their way from a message to a model: one check and one layout for all.

Everything is float32, little-endian, row-major. Checks collect the violations of a request, so that
its caller can fix them all at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trillium.errors import InvalidRequest, Violation
from trillium.violations import MAX_VIOLATIONS, Violations

Rows: TypeAlias = NDArray[np.float32]
"""Shape [n, features]."""
Probabilities: TypeAlias = NDArray[np.float32]
"""Shape [n], or [n, classes]."""

WIRE_DTYPE = np.dtype("<f4")
PROBABILITY_SLACK = 1e-4
"""How far rounding may carry a model's float32 probability out of [0, 1]."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in one block of bytes, checked: what travels from the edge to the predictors."""

    row_count: int
    column_count: int
    data: bytes
    """row_count * column_count float32 values, little-endian, row-major: finite, or NaN where the
    model takes missing values."""

    def array(self) -> Rows:
        """The rows as a read-only view of shape [row_count, column_count]."""
        flat = np.frombuffer(self.data, WIRE_DTYPE)
        return flat.reshape(self.row_count, self.column_count)


def from_block(
    row_count: int,
    column_count: int,
    data: bytes,
    *,
    feature_count: int | None,
    max_rows: int,
    takes_missing: bool = False,
    field: str = "matrix",
) -> Block:
    """Check a packed matrix.

    `feature_count` is that of the model, or None while it is unknown; `takes_missing` is whether it
    takes NaN. Raises InvalidRequest.
    """
    wrong = Violations()
    if row_count < 1:
        wrong.add(f"{field}.row_count", "is 0; expected at least 1 row")
    if row_count > max_rows:
        wrong.add(f"{field}.row_count", f"is {row_count}; at most {max_rows} allowed")
    if column_count < 1:
        wrong.add(f"{field}.column_count", "is 0; expected at least 1 column")
    elif feature_count is not None and column_count != feature_count:
        text = f"is {column_count}; the model has {feature_count} features"
        wrong.add(f"{field}.column_count", text)
    size = row_count * column_count * WIRE_DTYPE.itemsize
    if len(data) != size:
        text = f"has {len(data)} bytes; row_count {row_count} * column_count {column_count}"
        wrong.add(f"{field}.data", f"{text} * 4 bytes make {size}")
    wrong.raise_any()
    block = Block(row_count, column_count, data)
    check_finite(block.array(), f"{field}.data", takes_missing=takes_missing)
    return block


def check_finite(rows: Rows, field: str, *, takes_missing: bool = False) -> None:
    """Raises InvalidRequest with row and column, which bytes do not show, of what is not finite."""
    usable = are_usable(rows, takes_missing=takes_missing)
    if usable.all():
        return
    wrong = Violations()
    for row, column in wrong_places(~usable):
        problem = not_finite(rows[row, column])
        wrong.add(field, f"row {row}, column {column} is {problem}")
    wrong.raise_any()


def are_usable(values: NDArray[np.float32], *, takes_missing: bool) -> NDArray[np.bool_]:
    """Which values a model takes: the finite ones, and NaN if it takes missing values."""
    return ~np.isinf(values) if takes_missing else np.isfinite(values)


def not_finite(value: float) -> str:
    """What is wrong with a value that is not finite."""
    missing = ": this model takes no missing values" if value != value else ""
    return f"{value}; finite values only{missing}"


def wrong_places(wrong: NDArray[np.bool_]) -> list[list[int]]:
    """Row and column of the first `MAX_VIOLATIONS` values that are marked in `wrong`.

    Row by row: the places of all would be 16 bytes for each value of 4.
    """
    places: list[list[int]] = []
    for row in np.flatnonzero(wrong.any(axis=1))[:MAX_VIOLATIONS].tolist():
        columns = np.flatnonzero(wrong[row])[: MAX_VIOLATIONS - len(places)]
        places += [[row, column] for column in columns.tolist()]
    return places


def from_lists(
    rows: Sequence[Sequence[float]],
    *,
    feature_count: int | None,
    max_rows: int,
    takes_missing: bool = False,
    field: str = "instances",
) -> Block:
    """Check rows that came as lists, and pack them.

    `feature_count` is that of the model; None while it is unknown, and then the first row sets it
    for the others. `takes_missing` is whether it takes NaN. Raises InvalidRequest. A caller that
    first converts something to `rows` calls `check_row_count` before that.
    """
    check_row_count(len(rows), max_rows=max_rows, field=field)
    width = feature_count or next((len(row) for row in rows if row), 0)
    wrong = Violations()
    if width == 0 or any(len(row) != width for row in rows):
        odd = _odd_values(rows, field, takes_missing)
        wrong.extend(chain(_wrong_width(rows, width, field), odd))
        wrong.raise_any()
    flat = _packed([value for row in rows for value in row])
    if not are_usable(flat, takes_missing=takes_missing).all():
        wrong.extend(_odd_values(rows, field, takes_missing))
        wrong.raise_any()
    return Block(len(rows), width, flat.tobytes())


def check_row_count(row_count: int, *, max_rows: int, field: str = "instances") -> None:
    """Raises InvalidRequest for no row and for too many: before anything is converted."""
    if row_count > max_rows:
        raise InvalidRequest.of(field, f"has {row_count} rows; at most {max_rows} allowed")
    if not row_count:
        raise InvalidRequest.of(field, "is empty; expected at least 1 row")


def _packed(values: Sequence[float]) -> NDArray[np.float32]:
    """`values` as they are sent; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, WIRE_DTYPE)


def _wrong_width(rows: Sequence[Sequence[float]], width: int, field: str) -> Iterator[Violation]:
    for index, row in enumerate(rows):
        if len(row) != width or not row:
            text = f"row {index} has {len(row)} features; expected {width or 'at least 1'}"
            yield Violation(f"{field}[{index}].features", text)


def _odd_values(
    rows: Sequence[Sequence[float]], field: str, takes_missing: bool
) -> Iterator[Violation]:
    for index, row in enumerate(rows):
        usable = are_usable(_packed(row), takes_missing=takes_missing)
        for column in np.flatnonzero(~usable)[:MAX_VIOLATIONS].tolist():
            text = f"row {index}, feature {column} is {not_finite(row[column])}"
            yield Violation(f"{field}[{index}].features[{column}]", text)


def are_probabilities(values: NDArray[np.float32]) -> bool:
    """Whether every value is a probability, up to rounding; NaN is not."""
    lowest = np.minimum.reduce(values, axis=None, initial=0)
    highest = np.maximum.reduce(values, axis=None, initial=0)
    return bool(lowest >= -PROBABILITY_SLACK and highest <= 1 + PROBABILITY_SLACK)
