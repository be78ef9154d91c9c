"""What peers are asked, and how their answers are read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.peers import messages
from trillium.oip import open_inference_pb2 as pb

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.2, 4.0, 1.0]], np.float32)
SCORES = np.array([[0.9, 0.05, 0.05], [0.1, 0.7, 0.2]], np.float32)


def _answer(*, raw: bool, label_first: bool) -> bytes:
    answer = pb.ModelInferResponse(model_name="iris")
    for name in ("label", "probabilities") if label_first else ("probabilities", "label"):
        shape, datatype = ((2, 3), "FP32") if name == "probabilities" else ((2, 1), "BYTES")
        output = answer.outputs.add(name=name, datatype=datatype, shape=shape)
        labels = (b"setosa", b"versicolor")
        if name == "probabilities" and raw:
            answer.raw_output_contents.append(SCORES.tobytes())
        elif name == "probabilities":
            output.contents.fp32_contents.extend(SCORES.ravel().tolist())
        elif raw:
            block = b"".join(len(each).to_bytes(4, "little") + each for each in labels)
            answer.raw_output_contents.append(block)
        else:
            output.contents.bytes_contents.extend(labels)
    return answer.SerializeToString()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("label_first", [True, False])
def test_an_inference_answer_is_read_by_name(raw: bool, label_first: bool) -> None:
    answer = _answer(raw=raw, label_first=label_first)
    assert np.array_equal(messages.inference_probabilities(answer), SCORES)
    assert messages.inference_labels(answer) == ["setosa", "versicolor"]


def test_an_answer_without_probabilities_is_refused() -> None:
    with pytest.raises(KeyError):
        messages.inference_probabilities(pb.ModelInferResponse().SerializeToString())


def test_an_inference_request_holds_the_rows() -> None:
    request = pb.ModelInferRequest.FromString(messages.inference_request(ROWS))
    assert list(request.inputs[0].shape) == [2, 4]
    assert request.raw_input_contents[0] == ROWS.tobytes()


def test_json_carries_float32_exactly() -> None:
    rows = json.loads(messages.json_request(ROWS))["rows"]
    assert np.array_equal(np.array(rows, np.float32), ROWS)
    answer = json.dumps({"probabilities": SCORES.tolist(), "labels": ["a", "b"]}).encode()
    assert np.array_equal(messages.json_probabilities(answer), SCORES)
    assert messages.json_labels(answer) == ["a", "b"]
