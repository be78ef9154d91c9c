"""Rows that are written out as messages, read from and written to their bytes.

A message for each row costs 1.5 µs to read and more to write, all of it on the event loop: 16,384
rows took 40 ms, in which nobody else was served. Rows of one width all have the same size on the
wire, so that numpy cuts the values out of, or puts them into, the bytes of all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.rows import (
    WIRE_DTYPE,
    Block,
    Probabilities,
    are_usable,
    check_row_count,
    from_lists,
)

from .combine import Labels, Scores

FEW = 32
"""For fewer rows, messages cost no more."""
_LENGTH_DELIMITED, _FIXED_32 = 2, 5
_INSTANCES = pb.PredictRequest.INSTANCES_FIELD_NUMBER
_FEATURES = pb.Instance.FEATURES_FIELD_NUMBER
_PREDICTIONS = pb.PredictResponse.PREDICTIONS_FIELD_NUMBER
_PROBABILITIES = pb.Prediction.PROBABILITIES_FIELD_NUMBER
_CLASSIFICATIONS = pb.ClassifyResponse.CLASSIFICATIONS_FIELD_NUMBER
_ALL = pb.Classification.PROBABILITIES_FIELD_NUMBER
_PROBABILITY_TAG = bytes([pb.Classification.PROBABILITY_FIELD_NUMBER << 3 | _FIXED_32])


class WithInstances(Protocol):
    """A request whose first field is `instances`: its bytes begin with them."""

    @property
    def instances(self) -> Sequence[pb.Instance]:
        """The rows."""
        ...

    def SerializeToString(self) -> bytes:  # noqa: N802 as protobuf names it
        """The bytes of the message."""
        ...


def read_instances(
    request: WithInstances, *, feature_count: int | None, max_rows: int, takes_missing: bool = False
) -> Block:
    """The rows of a request, checked as `from_lists` does. Raises InvalidRequest."""
    rows = request.instances
    check_row_count(len(rows), max_rows=max_rows)
    if len(rows) >= FEW:
        raw = request.SerializeToString()
        block = _cut_out(raw, len(rows), len(rows[0].features), takes_missing)
        if block is not None and feature_count in (None, block.column_count):
            return block
    lists = [instance.features for instance in rows]
    return from_lists(
        lists, feature_count=feature_count, max_rows=max_rows, takes_missing=takes_missing
    )


def write_predictions(response: pb.PredictResponse, probabilities: Probabilities) -> None:
    """Add a Prediction for each row of `probabilities` [n, classes]."""
    row_count, width = probabilities.shape
    if row_count < FEW:
        rows = probabilities.tolist()
        response.predictions.extend([pb.Prediction(probabilities=row) for row in rows])
        return
    header = _header(_PREDICTIONS, _PROBABILITIES, width)
    # Bytes of a repeated field are added to what the message has.
    response.MergeFromString(_side_by_side(header, probabilities).tobytes())


def write_classifications(
    response: pb.ClassifyResponse, scores: Scores, labels: Labels, *, with_all: bool
) -> None:
    """Add a Classification for each row, with every class's probability if `with_all`."""
    row_count = len(labels.indexes)
    names = (*scores.class_labels, "")  # UNDECIDED is -1, and so the last one.
    if row_count < FEW:
        rows: list[Any] = scores.probabilities.tolist() if with_all else [()] * row_count
        response.classifications.extend(
            pb.Classification(
                label=names[index], probability=probability, undecided=index < 0, probabilities=row
            )
            for index, probability, row in zip(
                labels.indexes.tolist(), labels.probabilities.tolist(), rows, strict=True
            )
        )
        return
    written = [b""] * row_count
    # Rows with one label have one size.
    for index in np.unique(labels.indexes).tolist():
        chosen = np.flatnonzero(labels.indexes == index)
        fixed = pb.Classification(label=names[index], undecided=index < 0).SerializeToString()
        parts: list[bytes | Probabilities] = [
            fixed + _PROBABILITY_TAG,
            labels.probabilities[chosen, np.newaxis],
        ]
        if with_all:
            width = len(scores.class_labels)
            parts.append(_tag(_ALL) + _varint(width * WIRE_DTYPE.itemsize))
            parts.append(scores.probabilities[chosen])
        table = _side_by_side(*parts)
        size = table.shape[1]
        header = _tag(_CLASSIFICATIONS) + _varint(size)
        raw = _side_by_side(header, table).tobytes()
        stride = len(header) + size
        for place, row in enumerate(chosen.tolist()):
            written[row] = raw[place * stride : (place + 1) * stride]
    response.MergeFromString(b"".join(written))


def _side_by_side(*parts: bytes | NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of each row, [n, size]: what all rows share, and the rows of arrays [n, k]."""
    (row_count,) = {len(part) for part in parts if not isinstance(part, bytes)}
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (row_count, len(part)))
        if isinstance(part, bytes)
        else np.ascontiguousarray(part).view(np.uint8).reshape(row_count, -1)
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def _cut_out(raw: bytes, row_count: int, width: int, takes_missing: bool) -> Block | None:
    """The rows that `raw` begins with; None unless all have `width` values that can be scored."""
    header = _header(_INSTANCES, _FEATURES, width)
    stride = len(header) + width * WIRE_DTYPE.itemsize
    if not width or len(raw) < row_count * stride:
        return None
    table = np.frombuffer(raw, np.uint8, row_count * stride).reshape(row_count, stride)
    # Each header determines where the next one is: if all are as expected, so are the values.
    if (table[:, : len(header)] != np.frombuffer(header, np.uint8)).any():
        return None
    data = table[:, len(header) :].tobytes()
    if not are_usable(np.frombuffer(data, WIRE_DTYPE), takes_missing=takes_missing).all():
        return None
    return Block(row_count, width, data)


def _header(field: int, inner_field: int, width: int) -> bytes:
    """What precedes the values of a row: a message in `field` whose only field, `inner_field`, is
    packed floats (https://protobuf.dev/programming-guides/encoding/)."""
    size = width * WIRE_DTYPE.itemsize
    inner = _tag(inner_field) + _varint(size)
    return _tag(field) + _varint(len(inner) + size) + inner


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
