"""The tensors of the Open Inference Protocol's REST form and its binary-data extension.

With the extension, a request or answer is JSON followed by the raw tensors, in the order in which
the JSON names them; a header says where the JSON ends. Raw values are little-endian, row by row. A
BYTES value is its length in 4 bytes, then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trillium.answers import Classifications
from trillium.errors import InvalidRequest, Violation
from trillium.oip.model import LABEL, PROBABILITIES
from trillium.rows import WIRE_DTYPE, Rows

OUTPUTS = (PROBABILITIES, LABEL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that is asked for."""

    name: str
    binary: bool
    classes: int
    """Of the classification extension: so many best classes for each row; 0 is without it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: Any
    """A float32 array, or a list of texts."""
    binary: bool

    def json(self) -> dict[str, Any]:
        """Its part of the answer's JSON, but for values that are numbers."""
        told = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        if self.binary:
            return {**told, "parameters": {"binary_data_size": len(self.raw())}}
        return told

    def raw(self) -> bytes:
        """Its values as they follow the JSON."""
        if self.datatype == "FP32":
            return bytes(self.values.astype(WIRE_DTYPE).tobytes())
        encoded = [text.encode() for text in self.values]
        return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def rows_of(shape: Sequence[int], raw: bytes | None, data: Any, field: str) -> Rows:
    """The rows of the input, which came raw or as a (nested) list of numbers.

    Raises InvalidRequest for a shape that is not [n, features] or does not fit the values, and for
    values that float32 cannot hold.
    """
    if len(shape) != 2 or min(shape) < 1:
        text = f"is {list(shape)[:8]}; [rows, features] is wanted, each at least 1"
        raise InvalidRequest.of(f"{field}.shape", text)
    count = shape[0] * shape[1]
    if raw is not None:
        if len(raw) != 4 * count:
            text = f"has {len(raw)} raw bytes; shape {list(shape)} of FP32 makes {4 * count}"
            raise InvalidRequest.of(field, text)
        return np.frombuffer(raw, WIRE_DTYPE).reshape(tuple(shape))
    flat = _flat(data, shape, field)
    with np.errstate(over="ignore"):
        rows = np.array(flat, np.float64).astype(WIRE_DTYPE)
    wrong = np.flatnonzero(~np.isfinite(rows))[:20].tolist()
    if wrong:
        text = "; too large for FP32"
        raise InvalidRequest(
            [Violation(f"{field}.data", f"value {at} is {flat[at]:g}{text}") for at in wrong]
        )
    return rows.reshape(tuple(shape))


def _flat(data: Any, shape: Sequence[int], field: str) -> list[float]:
    """The numbers of a flat list, or of a list of rows."""
    rows = data if data and isinstance(data[0], list) else [data]
    flat = [value for row in rows for value in row]
    is_flat = len(rows) == 1 and len(flat) == shape[0] * shape[1]
    if not is_flat and [len(row) for row in rows] != [shape[1]] * shape[0]:
        text = f"has {len(flat)} values in {len(rows)} rows; shape is {list(shape)}"
        raise InvalidRequest.of(f"{field}.data", text)
    return flat


def output(wanted: Wanted, answer: Classifications) -> Tensor:
    """An output of `answer`, which holds all probabilities."""
    every = answer.class_probabilities
    assert every is not None
    count = len(answer.labels)
    if wanted.name == LABEL:
        return Tensor(LABEL, "BYTES", (count,), list(answer.labels), wanted.binary)
    if not wanted.classes:
        return Tensor(PROBABILITIES, "FP32", every.shape, every, wanted.binary)
    most = min(wanted.classes, every.shape[1])
    # Stable, so that ties go to the class that comes first.
    order = np.argsort(-every, axis=1, kind="stable")[:, :most]
    texts = [
        f"{every[row, column]:f}:{column}:{answer.class_labels[column]}"
        for row in range(count)
        for column in order[row].tolist()
    ]
    return Tensor(PROBABILITIES, "BYTES", (count, most), texts, wanted.binary)
