"""What the peers are asked, and how their answers are read."""

from __future__ import annotations

import json

import numpy as np

from bench.systems.known import Rows
from trillium.oip import open_inference_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"


def inference_request(rows: Rows) -> bytes:
    """A ModelInfer message of the Open Inference Protocol for the model `iris`."""
    request = pb.ModelInferRequest(model_name="iris")
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.astype("<f4", copy=False).tobytes())
    return request.SerializeToString()


def inference_probabilities(answer: bytes) -> Rows:
    """[n, classes] of a ModelInfer answer; raises KeyError if it has none."""
    said = pb.ModelInferResponse.FromString(answer)
    index = {output.name: place for place, output in enumerate(said.outputs)}["probabilities"]
    output = said.outputs[index]
    if said.raw_output_contents:
        values = np.frombuffer(said.raw_output_contents[index], "<f4")
    else:
        values = np.array(output.contents.fp32_contents, np.float32)
    return values.reshape(tuple(output.shape))


def inference_labels(answer: bytes) -> list[str]:
    """The label of each row of a ModelInfer answer; raises KeyError if it has none."""
    said = pb.ModelInferResponse.FromString(answer)
    index = {output.name: place for place, output in enumerate(said.outputs)}["label"]
    if not said.raw_output_contents:
        return [text.decode() for text in said.outputs[index].contents.bytes_contents]
    raw, found, start = said.raw_output_contents[index], [], 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        found.append(raw[start + 4 : end].decode())
        start = end
    return found


def json_request(rows: Rows) -> bytes:
    """`{"rows": [[...], ...]}`."""
    return json.dumps({"rows": rows.tolist()}).encode()


def json_probabilities(answer: bytes) -> Rows:
    """[n, classes] of `{"probabilities": ..., "labels": ...}`."""
    return np.array(json.loads(answer)["probabilities"], np.float32)


def json_labels(answer: bytes) -> list[str]:
    """The label of each row of such an answer."""
    return [str(label) for label in json.loads(answer)["labels"]]
