"""Rows of features on their way from a message to a model: one check and one layout for all.

Everything is float32, little-endian, row-major. Checks collect every violation up to
`MAX_VIOLATIONS`, so that a caller mends a request in one go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trillium.errors import InvalidRequest, Violation

Rows: TypeAlias = NDArray[np.float32]
"""Shape [n, features]."""
Probabilities: TypeAlias = NDArray[np.float32]
"""Shape [n], or [n, classes]."""

WIRE_DTYPE = np.dtype("<f4")
MAX_VIOLATIONS = 20
PROBABILITY_SLACK = 1e-4
"""How far rounding may carry a model's float32 probability out of [0, 1]."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in one block of bytes, checked: what travels from the edge to the predictors."""

    row_count: int
    column_count: int
    data: bytes
    """row_count * column_count float32 values, little-endian, row-major, all finite."""

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
    field: str = "matrix",
) -> Block:
    """Check a packed matrix.

    `feature_count` is what the model wants, or None while that is unknown. Raises InvalidRequest.
    """
    wrong = []
    if row_count < 1:
        wrong.append(Violation(f"{field}.row_count", "is 0; at least 1 row is wanted"))
    if row_count > max_rows:
        wrong.append(Violation(f"{field}.row_count", f"is {row_count}; at most {max_rows} allowed"))
    if column_count < 1:
        wrong.append(Violation(f"{field}.column_count", "is 0; at least 1 column is wanted"))
    elif feature_count is not None and column_count != feature_count:
        text = f"is {column_count}; the model has {feature_count} features"
        wrong.append(Violation(f"{field}.column_count", text))
    size = row_count * column_count * WIRE_DTYPE.itemsize
    if len(data) != size:
        text = (
            f"has {len(data)} bytes; row_count {row_count} * column_count {column_count} * 4 bytes"
            f" make {size}"
        )
        wrong.append(Violation(f"{field}.data", text))
    if wrong:
        raise InvalidRequest(wrong)
    block = Block(row_count, column_count, data)
    check_finite(block.array(), f"{field}.data")
    return block


def check_finite(rows: Rows, field: str) -> None:
    """Raises InvalidRequest with row and column, which bytes do not show, of what is not finite."""
    if np.isfinite(rows).all():
        return
    places = wrong_places(~np.isfinite(rows))
    raise InvalidRequest(
        [
            Violation(
                field, f"row {row}, column {column} is {rows[row, column]}; finite values only"
            )
            for row, column in places
        ]
    )


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
    field: str = "instances",
) -> Block:
    """Check rows that came as lists, and pack them.

    `feature_count` is what the model wants; None while that is unknown, and then the first row
    sets it for the others. Raises InvalidRequest. Whoever has to make `rows` of something else
    calls `check_row_count` first.
    """
    check_row_count(len(rows), max_rows=max_rows, field=field)
    wanted = feature_count or next((len(row) for row in rows if row), 0)
    if wanted == 0 or any(len(row) != wanted for row in rows):
        found = chain(_wrong_width(rows, wanted, field), _odd_values(rows, field))
        raise InvalidRequest(first_violations(found))
    flat = _packed([value for row in rows for value in row])
    if not np.isfinite(flat).all():
        raise InvalidRequest(first_violations(_odd_values(rows, field)))
    return Block(len(rows), wanted, flat.tobytes())


def check_row_count(row_count: int, *, max_rows: int, field: str = "instances") -> None:
    """Raises InvalidRequest for no row and for too many: before anything is made of them."""
    if row_count > max_rows:
        raise InvalidRequest.of(field, f"has {row_count} rows; at most {max_rows} allowed")
    if not row_count:
        raise InvalidRequest.of(field, "is empty; at least 1 row is wanted")


def first_violations(found: Iterator[Violation]) -> list[Violation]:
    """The first `MAX_VIOLATIONS` of them; the search for more ends there."""
    return list(islice(found, MAX_VIOLATIONS))


def _packed(values: Sequence[float]) -> NDArray[np.float32]:
    """`values` as they travel; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, WIRE_DTYPE)


def _wrong_width(rows: Sequence[Sequence[float]], wanted: int, field: str) -> Iterator[Violation]:
    for index, row in enumerate(rows):
        if len(row) != wanted or not row:
            text = f"row {index} has {len(row)} features; {wanted or 'at least 1'} wanted"
            yield Violation(f"{field}[{index}].features", text)


def _odd_values(rows: Sequence[Sequence[float]], field: str) -> Iterator[Violation]:
    for index, row in enumerate(rows):
        for column in np.flatnonzero(~np.isfinite(_packed(row)))[:MAX_VIOLATIONS].tolist():
            text = f"row {index}, feature {column} is {row[column]}; finite values only"
            yield Violation(f"{field}[{index}].features[{column}]", text)


def are_probabilities(values: NDArray[np.float32]) -> bool:
    """Whether every value is a probability, but for rounding; NaN is none."""
    lowest = np.minimum.reduce(values, axis=None, initial=0)
    highest = np.maximum.reduce(values, axis=None, initial=0)
    return bool(lowest >= -PROBABILITY_SLACK and highest <= 1 + PROBABILITY_SLACK)
