"""From probabilities to the outputs that a request wants."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from trillium.oip import open_inference_pb2 as pb
from trillium.oip.model import LABEL, VERSION, ServedModel
from trillium.oip.reading import Output, Question
from trillium.rows import WIRE_DTYPE, Probabilities

_LENGTH = struct.Struct("<I")


def answer(
    request_id: str, model: ServedModel, question: Question, probabilities: Probabilities
) -> pb.ModelInferResponse:
    """The answer to `question`, of [n, classes] `probabilities`."""
    response = pb.ModelInferResponse(model_name=model.name, model_version=VERSION, id=request_id)
    for output in question.outputs:
        if output.name == LABEL:
            _add_texts(response, output, _labels(model, probabilities), question)
        elif output.class_count:
            _add_texts(response, output, _classes(model, output, probabilities), question)
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
    texts: tuple[Sequence[int], Iterable[bytes]],
    question: Question,
) -> None:
    shape, elements = texts
    tensor = response.outputs.add(name=output.name, datatype="BYTES", shape=shape)
    if question.raw:
        packed = [_LENGTH.pack(len(element)) + element for element in elements]
        response.raw_output_contents.append(b"".join(packed))
    else:
        tensor.contents.bytes_contents.extend(elements)


def _labels(
    model: ServedModel, probabilities: Probabilities
) -> tuple[Sequence[int], Iterable[bytes]]:
    """The most probable class of each row, [n]; ties go to the first class."""
    names = [label.encode() for label in model.class_labels]
    winners = probabilities.argmax(axis=1).tolist()
    return (len(winners),), [names[winner] for winner in winners]


def _classes(
    model: ServedModel, output: Output, probabilities: Probabilities
) -> tuple[Sequence[int], Iterable[bytes]]:
    """`score:index:label` of the most probable classes of each row, [n, k], the best first."""
    count = min(output.class_count, len(model.class_labels))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    scores = np.take_along_axis(probabilities, order, axis=1)
    elements = [
        f"{score:f}:{index}:{model.class_labels[index]}".encode()
        for score, index in zip(scores.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return (len(probabilities), count), elements
