"""Rows that are written out are read and written as their messages are, whatever they hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.combine import Labels, Scores
from aggregator.instances import (
    FEW,
    read_instances,
    write_classifications,
    write_predictions,
)
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.errors import InvalidRequest
from trillium.rows import Block, from_lists

floats = st.floats(width=32)
width = st.integers(0, 40)
ENSEMBLE = "\n\x06\n\x04"


def request_of(rows: list[pb.Instance]) -> pb.PredictRequest:
    """With other fields that look like rows."""
    return pb.PredictRequest(
        instances=rows, ensemble=ENSEMBLE, class_labels=[f"{ENSEMBLE}aaaa"], allow_partial=True
    )


def as_lists(request: pb.PredictRequest, feature_count: int | None) -> Block | list[object]:
    rows = [instance.features for instance in request.instances]
    try:
        return from_lists(rows, feature_count=feature_count, max_rows=100)
    except InvalidRequest as error:
        return list(error.violations)


def as_bytes(request: pb.PredictRequest, feature_count: int | None) -> Block | list[object]:
    try:
        return read_instances(request, feature_count=feature_count, max_rows=100)
    except InvalidRequest as error:
        return list(error.violations)


@given(data=st.data(), count=st.sampled_from([0, 1, FEW - 1, FEW, FEW + 3, 101]))
def test_rows_are_read_as_from_their_messages(data: st.DataObject, count: int) -> None:
    columns = data.draw(width)
    values = data.draw(st.lists(floats, min_size=columns, max_size=columns))
    rows = [pb.Instance(features=values) for _ in range(count)]
    if count and data.draw(st.booleans()):
        odd = data.draw(st.lists(floats, max_size=columns + 1))
        rows[data.draw(st.integers(0, count - 1))] = pb.Instance(features=odd)
    request = request_of(rows)
    for feature_count in (None, columns or 1, columns + 1):
        # NaN is not equal to itself, in violations it is a text.
        assert str(as_bytes(request, feature_count)) == str(as_lists(request, feature_count))


def test_rows_that_look_like_the_next_rows_header_are_values() -> None:
    trap = np.frombuffer(b"\n\x12\n\x10" * 4, "<f4")
    request = request_of([pb.Instance(features=trap.tolist()) for _ in range(FEW)])
    block = read_instances(request, feature_count=4, max_rows=FEW)
    assert block.array().tolist() == [trap.tolist()] * FEW


def test_fields_that_this_version_does_not_know_are_no_rows() -> None:
    rows = [pb.Instance(features=[1, 2]) for _ in range(FEW)]
    raw = b"\xfa\x7f\x02hi" + pb.PredictRequest(instances=rows).SerializeToString()
    request = pb.PredictRequest.FromString(raw)
    assert read_instances(request, feature_count=2, max_rows=FEW).row_count == FEW
    rows[3] = pb.Instance.FromString(rows[3].SerializeToString() + b"\xfa\x7f\x02hi")
    request = pb.PredictRequest(instances=rows)
    assert read_instances(request, feature_count=2, max_rows=FEW).array().tolist() == [[1, 2]] * FEW


@pytest.mark.parametrize("row_count", [1, FEW - 1, FEW, 1000])
@pytest.mark.parametrize("classes", [1, 3, 50])
def test_predictions_are_written_as_their_messages_are(row_count: int, classes: int) -> None:
    probabilities = np.random.default_rng(7).random((classes, row_count), np.float32).T
    probabilities[0, 0] = 0.0
    response = pb.PredictResponse(ensemble="e", class_labels=["a"])
    write_predictions(response, probabilities)
    expected = pb.PredictResponse(ensemble="e", class_labels=["a"])
    expected.predictions.extend(pb.Prediction(probabilities=row) for row in probabilities.tolist())
    assert response == expected


@pytest.mark.parametrize("row_count", [1, FEW - 1, FEW, 1000])
@pytest.mark.parametrize("classes", [1, 3, 300])
@pytest.mark.parametrize("with_all", [False, True])
def test_classifications_are_written_as_their_messages_are(
    row_count: int, classes: int, with_all: bool
) -> None:
    generator = np.random.default_rng(7)
    names = tuple(f"class \u00e9 {'x' * index}" for index in range(classes))
    scores = Scores(names, generator.random((classes, row_count), np.float32).T, ())
    indexes = generator.integers(-1, classes, row_count).astype(np.int32)
    labels = Labels(indexes, generator.random(row_count, np.float32))
    labels.probabilities[0] = 0.0
    response = pb.ClassifyResponse(ensemble="e")
    write_classifications(response, scores, labels, with_all=with_all)
    expected = pb.ClassifyResponse(ensemble="e")
    for row, index in enumerate(indexes.tolist()):
        expected.classifications.add(
            label=names[index] if index >= 0 else "",
            probability=labels.probabilities[row],
            undecided=index < 0,
            probabilities=scores.probabilities[row] if with_all else (),
        )
    assert response == expected
