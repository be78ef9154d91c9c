"""From probabilities to the outputs that were requested."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from trillium.oip import open_inference_pb2 as pb
from trillium.oip.model import LABEL, ServedModel
from trillium.oip.reading import Output, Question
from trillium.rows import WIRE_DTYPE, Probabilities

_LENGTH = struct.Struct("<I")


def answer(
    request_id: str, model: ServedModel, question: Question, probabilities: Probabilities
) -> pb.ModelInferResponse:
    """The response to `question` with `probabilities` [n, classes]."""
    response = pb.ModelInferResponse(
        model_name=model.name, model_version=model.version, id=request_id
    )
    for output in question.outputs:
        row_count = len(probabilities)
        if output.name == LABEL:
            labels = _labels(model, probabilities)
            _add_texts(response, output, (row_count,), labels, question)
        elif output.class_count:
            count = min(output.class_count, len(model.class_labels))
            classes = _classes(model, count, probabilities)
            _add_texts(response, output, (row_count, count), classes, question)
        else:
            _add_numbers(response, output, probabilities, question)
    return response


def _add_numbers(
    response: pb.ModelInferResponse, output: Output, values: Probabilities, question: Question
) -> None:
    tensor = response.outputs.add(name=output.name, datatype="FP32", shape=values.shape)
    if question.raw:
        response.raw_output_contents.append(values.astype(WIRE_DTYPE, copy=False).tobytes())
    else:
        tensor.contents.fp32_contents.extend(values.ravel().tolist())


def _add_texts(
    response: pb.ModelInferResponse,
    output: Output,
    shape: Sequence[int],
    elements: Sequence[bytes],
    question: Question,
) -> None:
    tensor = response.outputs.add(name=output.name, datatype="BYTES", shape=shape)
    if question.raw:
        packed = {each: _LENGTH.pack(len(each)) + each for each in set(elements)}
        response.raw_output_contents.append(b"".join([packed[each] for each in elements]))
    else:
        tensor.contents.bytes_contents.extend(elements)


def _labels(model: ServedModel, probabilities: Probabilities) -> list[bytes]:
    """The most probable class of each row, [n]; ties go to the first class."""
    names = [label.encode() for label in model.class_labels]
    return [names[winner] for winner in probabilities.argmax(axis=1).tolist()]


def _classes(model: ServedModel, count: int, probabilities: Probabilities) -> list[bytes]:
    """`score:index:label` of the `count` most probable classes of each row, the best first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    scores = np.take_along_axis(probabilities, order, axis=1)
    return [
        f"{score:f}:{index}:{model.class_labels[index]}".encode()
        for score, index in zip(scores.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
