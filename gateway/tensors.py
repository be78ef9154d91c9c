"""Inference requests and responses of the Open Inference Protocol: its HTTP form as its gRPC form.

With the binary-data extension, a body is JSON followed by raw tensors, in the order in which the
JSON names them; a header gives the length of the JSON. The gRPC form has the same raw layout:
values are little-endian and row-major, and each BYTES value follows its length in 4 bytes. So
values always travel raw to the aggregator and back, and only those in JSON are converted here.
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from trillium.errors import InvalidRequest, Violation
from trillium.oip import open_inference_pb2 as pb
from trillium.rows import WIRE_DTYPE
from trillium.violations import Violations

from .few_errors import FewErrors, FirstError
from .messages import shortest
from .operation import json_response

BINARY = "application/octet-stream"
LENGTH_HEADER = "inference-header-content-length"

_LENGTH = struct.Struct("<I")
_INPUT = "inputs[0]"


class _Lenient(BaseModel):
    """Base of requests in which clients send keys and parameters that this server does not use."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


Dimension = Annotated[int, Field(ge=1, lt=2**31)]
# A value that is neither type of list has the errors of both; the first of each is enough.
Flat = Annotated[list[float | None], FirstError()]
Nested = Annotated[list[list[float | None]], FirstError()]


class InputParameters(_Lenient):
    """Parameters of an input."""

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Size in bytes of this tensor after the JSON."
    )


class InferInput(_Lenient):
    """The input tensor."""

    name: str = Field(description="`input`.", examples=["input"])
    datatype: str = Field(description="`FP32`.", examples=["FP32"])
    shape: Annotated[list[Dimension], FewErrors()] = Field(description="[rows, features].")
    data: Flat | Nested | None = Field(
        default=None, description="Values in row-major order, flat or nested; absent if binary."
    )
    parameters: InputParameters = InputParameters()


class OutputParameters(_Lenient):
    """Parameters of a requested output."""

    binary_data: bool | None = Field(
        default=None, description="Return this output as binary data after the JSON."
    )
    classification: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Return this number of most probable classes as score:index:label.",
    )


class InferOutput(_Lenient):
    """A requested output."""

    name: str = Field(description="`probabilities` or `label`.", examples=["probabilities"])
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Lenient):
    """Parameters of the request."""

    binary_data_output: bool = Field(
        default=False, description="Return every output as binary data unless it sets binary_data."
    )
    timeout: int = Field(default=0, ge=0, le=86_400_000_000, description="Microseconds.")


class InferRequest(_Lenient):
    """Rows to score."""

    id: str | None = Field(default=None, description="Returned with the response.")
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: Annotated[list[InferOutput], FewErrors()] = Field(
        default=[], max_length=2, description="Each at most once; empty requests every output."
    )


class OutputTensor(BaseModel):
    """An output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str] | None = Field(
        default=None, description="Values in row-major order, flat; absent if binary."
    )
    parameters: dict[str, int] = Field(default={}, description="binary_data_size if binary.")


class InferResponse(BaseModel):
    """The requested outputs."""

    model_name: str
    model_version: str
    id: str = Field(default="", description="The id of the request.")
    outputs: list[OutputTensor]


def to_message(body: InferRequest, raw: bytes, *, model: str, version: str) -> pb.ModelInferRequest:
    """The request as a message; `raw` is what followed the JSON.

    Raises InvalidRequest unless the values match their shape and size and are finite in FP32. The
    aggregator checks everything else.
    """
    tensor = body.inputs[0]
    message = pb.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=body.id or "",
        raw_input_contents=[_contents(tensor, raw)],
    )
    message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for each in body.outputs:
        output = message.outputs.add(name=each.name)
        if each.parameters.classification:
            output.parameters["classification"].int64_param = each.parameters.classification
    if body.parameters.timeout:
        message.parameters["timeout"].int64_param = body.parameters.timeout
    return message


def _contents(tensor: InferInput, raw: bytes) -> bytes:
    size = tensor.parameters.binary_data_size
    if (size or 0) != len(raw):
        text = f"is {size}; expected {len(raw)}, the number of bytes after the JSON"
        raise InvalidRequest.of(f"{_INPUT}.parameters.binary_data_size", text)
    if size is None and tensor.data is None:
        raise InvalidRequest.of(f"{_INPUT}.data", "is missing; send the values here or as binary")
    if size is not None and tensor.data is not None:
        raise InvalidRequest.of(f"{_INPUT}.data", "cannot be combined with binary_data_size")
    return raw if tensor.data is None else _packed(tensor.data, tensor.shape)


def _packed(data: list[Any], shape: list[int]) -> bytes:
    """A flat list of numbers, or a list of rows, as raw FP32 values."""
    nested = bool(data) and isinstance(data[0], list)
    flat = [value for row in data for value in row] if nested else data
    width = shape[-1] if shape else 0
    if len(flat) != math.prod(shape) or (nested and any(len(row) != width for row in data)):
        text = f"has {len(flat)} values{f' in {len(data)} rows' if nested else ''}"
        raise InvalidRequest.of(f"{_INPUT}.data", f"{text}; shape is {shape[:8]}")
    with np.errstate(over="ignore"):
        values = np.array(flat, np.float64).astype(WIRE_DTYPE)
    wrong = Violations()
    wrong.extend(
        Violation(f"{_INPUT}.data", f"value {at} is {flat[at]:g}; too large for FP32")
        for at in np.flatnonzero(np.isinf(values))
    )
    wrong.raise_any()
    return values.tobytes()


def to_response(message: pb.ModelInferResponse, body: InferRequest) -> Response:
    """The answer to `body`, its binary outputs after the JSON."""
    binary = {each.name: each.parameters.binary_data for each in body.outputs}
    outputs, tail = [], []
    for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype}
        output["shape"] = list(tensor.shape)
        chosen = binary.get(tensor.name)
        if body.parameters.binary_data_output if chosen is None else chosen:
            output["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            output["data"] = _values(tensor.datatype, raw)
        outputs.append(output)
    answer = {"model_name": message.model_name, "model_version": message.model_version}
    if message.id:
        answer["id"] = message.id
    response = json_response({**answer, "outputs": outputs})
    if not tail:
        return response
    header = bytes(response.body)
    return Response(
        b"".join([header, *tail]), headers={LENGTH_HEADER: str(len(header))}, media_type=BINARY
    )


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "FP32":
        return list(shortest(np.frombuffer(raw, WIRE_DTYPE)))
    texts, at = [], 0
    while at < len(raw):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(raw, at)[0]
        texts.append(raw[start:at].decode())
    return texts
