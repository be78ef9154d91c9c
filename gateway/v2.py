"""The Open Inference Protocol over HTTP: `/v2/...`, with the binary-data extension."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway import tensors
from gateway.backend import Aggregator
from gateway.few_errors import FewErrors, FirstError
from gateway.messages import shortest
from gateway.operation import JSON, Asked, Operation, Promise, RawBody, json_response
from gateway.problems import HttpError
from gateway.reading import checked, media_type_of
from gateway.scoring import Scoring
from gateway.strict_json import parse
from gateway.tensors import OUTPUTS, Tensor, Wanted
from trillium import __version__
from trillium.errors import Code, InvalidRequest, TrilliumError
from trillium.oip.model import INPUT, LABEL, PROBABILITIES, VERSION
from trillium.tensor.v1 import tensor_pb2

TAG = "Open Inference Protocol"
BINARY = "application/octet-stream"
LENGTH_HEADER = "inference-header-content-length"


class _Lenient(BaseModel):
    """Clients send keys and parameters that this server has no use for."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


Dimension = Annotated[int, Field(ge=0, lt=2**31)]
# Of two lists that do not fit both have their errors; the first of each will do.
Flat = Annotated[list[float], FirstError()]
Nested = Annotated[list[list[float]], FirstError()]


class InputParameters(_Lenient):
    """Parameters of an input."""

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Bytes of this tensor after the JSON."
    )


class InferInput(_Lenient):
    """The one input."""

    name: Literal["input"]
    datatype: Literal["FP32"]
    shape: Annotated[list[Dimension], FewErrors()] = Field(description="[rows, features].")
    data: Flat | Nested | None = Field(
        default=None, description="Row after row, flat or nested; none if it comes raw."
    )
    parameters: InputParameters = InputParameters()


class OutputParameters(_Lenient):
    """Parameters of an output."""

    binary_data: bool | None = Field(default=None, description="Answer this one raw.")
    classification: int = Field(
        default=0, ge=0, description="Answer so many best classes as score:index:label."
    )


class InferOutput(_Lenient):
    """An output that is asked for."""

    name: Literal["probabilities", "label"]
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Lenient):
    """Parameters of the request."""

    binary_data_output: bool = Field(default=False, description="Answer every output raw.")
    timeout: int = Field(default=0, ge=0, le=86_400_000_000, description="Microseconds.")


class InferRequest(_Lenient):
    """Asks for probabilities and labels."""

    id: str | None = Field(default=None, description="Comes back in the answer.")
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: Annotated[list[InferOutput], FewErrors()] = Field(
        default=[], max_length=2, description="Each at most once; empty means both."
    )


class TensorMetadata(BaseModel):
    """A tensor of the model."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for the number of rows.")


class ServerMetadata(BaseModel):
    """This server."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """The model: the whole ensemble."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    """Whether the gateway is up."""

    live: bool


class Ready(BaseModel):
    """Whether every class can answer."""

    ready: bool


class ModelReady(BaseModel):
    """Whether the model can answer."""

    name: str
    ready: bool


class OutputTensor(BaseModel):
    """An output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str] | None = Field(
        default=None, description="Row after row, flat; none if it is raw."
    )
    parameters: dict[str, int] = Field(default={}, description="binary_data_size if it is raw.")


class InferResponse(BaseModel):
    """What was asked for."""

    model_name: str
    model_version: str
    id: str = Field(default="", description="As it came.")
    outputs: list[OutputTensor]


_EXAMPLE = {
    "inputs": [
        {"name": INPUT, "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]},
    ]
}
_BODY = RawBody(
    {
        JSON: {"schema": InferRequest, "example": _EXAMPLE},
        BINARY: {"schema": {"type": "string", "format": "binary"}},
    },
    f"JSON; or JSON and then the raw tensors, with its length in the header {LENGTH_HEADER}.",
)


class OpenInference:
    """The ensemble as a model of the protocol."""

    def __init__(self, aggregator: Aggregator, scoring: Scoring) -> None:
        self._aggregator = aggregator
        self._scoring = scoring

    def operations(self) -> Sequence[Operation]:
        found: list[Operation] = [
            Operation(
                "GET", "/v2", TAG, "This server", self._server,
                (Promise(200, "Name, version, extensions.", ServerMetadata),), local=True,
            ),
            Operation(
                "GET", "/v2/health/live", TAG, "Is the gateway up?", self._live,
                (Promise(200, "It is.", Live),), local=True,
            ),
            Operation(
                "GET", "/v2/health/ready", TAG, "Can every class answer?", self._ready,
                (Promise(200, "Every class can.", Ready), Promise(503, "Not all can.", Ready)),
            ),
        ]  # fmt: skip
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += self._of_model(path)
        return found

    def _of_model(self, path: str) -> Sequence[Operation]:
        infer = (
            Promise(200, "The outputs, in the order in which they were asked for.", InferResponse),
            Promise(200, "The same with raw tensors after the JSON.", {"type": "string",
                    "format": "binary"}, BINARY),
        )  # fmt: skip
        return (
            Operation(
                "GET", path, TAG, "Inputs and outputs of the model", self._model,
                (Promise(200, "The model.", ModelMetadata),), refusals=(404,),
            ),
            Operation(
                "GET", f"{path}/ready", TAG, "Can the model answer?", self._model_ready,
                (
                    Promise(200, "It can.", ModelReady),
                    Promise(503, "Not every class can.", ModelReady),
                ),
                refusals=(404,),
            ),
            Operation(
                "POST", f"{path}/infer", TAG, "Probabilities and labels", self._infer, infer,
                body=_BODY, refusals=(404,),
            ),
        )  # fmt: skip

    async def _server(self, asked: Asked) -> Response:
        extensions = ["binary_tensor_data", "classification"]
        return json_response({"name": "trillium", "version": __version__, "extensions": extensions})

    async def _live(self, asked: Asked) -> Response:
        return json_response({"live": True})

    async def _ready(self, asked: Asked) -> Response:
        ready = await self._is_ready(asked)
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _model(self, asked: Asked) -> Response:
        _check_version(asked)
        known = await self._scoring.metadata(asked, asked.path["model"])
        shapes = (
            (PROBABILITIES, "FP32", list(known.output_shape)),
            (LABEL, "BYTES", [-1]),
        )
        return json_response(
            {
                "name": known.ensemble or asked.path["model"],
                "versions": [VERSION],
                "platform": "trillium_ensemble",
                "inputs": [_tensor(INPUT, known.dtype, list(known.input_shape))],
                "outputs": [_tensor(*each) for each in shapes],
            }
        )

    async def _model_ready(self, asked: Asked) -> Response:
        _check_version(asked)
        model = asked.path["model"]
        try:
            await self._scoring.metadata(asked, model)
            ready = await self._is_ready(asked)
        except TrilliumError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            ready = False
        return json_response({"name": model, "ready": ready}, 200 if ready else 503)

    async def _is_ready(self, asked: Asked) -> bool:
        try:
            return await self._aggregator.is_serving(asked)
        except TrilliumError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return False

    async def _infer(self, asked: Asked) -> Response:
        _check_version(asked)
        header, raw = _split(asked)
        request: InferRequest = checked(InferRequest, parse(header))
        rows = _rows(request.inputs[0], raw)
        if request.parameters.timeout:
            left_s = min(asked.left_s, request.parameters.timeout / 1e6)
            asked = replace(asked, deadline=asked.deadline - asked.left_s + left_s)
        matrix = tensor_pb2.Float32Matrix(
            row_count=rows.shape[0], column_count=rows.shape[1], data=rows.tobytes()
        )
        answer = await self._scoring.classify(
            matrix,
            asked,
            field="inputs[0]",
            ensemble=asked.path["model"],
            include_probabilities=True,
        )
        told: dict[str, Any] = {
            "model_name": answer.ensemble or asked.path["model"],
            "model_version": VERSION,
        }
        if request.id is not None:
            told["id"] = request.id
        return _answer(told, [tensors.output(each, answer) for each in _wanted(request)])


def _tensor(name: str, datatype: str, shape: list[int]) -> Mapping[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _check_version(asked: Asked) -> None:
    version = asked.path.get("version", VERSION)
    if version != VERSION:
        text = f"version: is {version}; the ensemble has version {VERSION} only"
        raise HttpError(404, Code.NOT_FOUND, "MODEL_NOT_FOUND", text)


def _split(asked: Asked) -> tuple[bytes, bytes]:
    """The JSON of a request, and the raw tensors after it."""
    length = asked.headers.get(LENGTH_HEADER)
    found = media_type_of(asked.headers)
    # Triton's clients send no content type at all.
    if found not in ("", JSON, BINARY):
        text = f"content-type is {found[:60]!r}; {JSON} or {BINARY} is wanted"
        headers = {"connection": "close"}
        raise HttpError(415, Code.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", text, headers)
    if length is None:
        return asked.raw, b""
    size = len(asked.raw)
    if not (length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= size):
        text = f"is {length[:40]!r}; a number of bytes up to the body's {size} is wanted"
        raise InvalidRequest.of(f"header {LENGTH_HEADER}", text)
    return asked.raw[: int(length)], asked.raw[int(length) :]


def _rows(tensor: InferInput, raw: bytes) -> Any:
    field = "inputs[0]"
    announced = tensor.parameters.binary_data_size
    if (announced or 0) != len(raw):
        text = f"is {announced}; {len(raw)} bytes follow the JSON"
        raise InvalidRequest.of(f"{field}.parameters.binary_data_size", text)
    if (announced is None) == (tensor.data is None):
        text = "is missing, and nothing comes raw" if tensor.data is None else "is given beside raw"
        raise InvalidRequest.of(f"{field}.data", text)
    return tensors.rows_of(tensor.shape, None if announced is None else raw, tensor.data, field)


def _wanted(request: InferRequest) -> Sequence[Wanted]:
    every = request.parameters.binary_data_output
    if not request.outputs:
        return [Wanted(name, every, 0) for name in OUTPUTS]
    wanted: list[Wanted] = []
    for index, each in enumerate(request.outputs):
        field = f"outputs[{index}]"
        if any(each.name == before.name for before in wanted):
            raise InvalidRequest.of(f"{field}.name", f"is {each.name!r} again")
        classes = each.parameters.classification
        if classes and each.name != PROBABILITIES:
            text = f"is {classes}; only {PROBABILITIES} can be classified"
            raise InvalidRequest.of(f"{field}.parameters.classification", text)
        binary = each.parameters.binary_data
        wanted.append(Wanted(each.name, every if binary is None else binary, classes))
    return wanted


def _answer(told: dict[str, Any], outputs: Sequence[Tensor]) -> Response:
    told["outputs"] = [_output_json(each) for each in outputs]
    raw = b"".join(each.raw() for each in outputs if each.binary)
    if not any(each.binary for each in outputs):
        return json_response(told)
    header = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(header + raw, 200, {LENGTH_HEADER: str(len(header))}, BINARY)


def _output_json(tensor: Tensor) -> dict[str, Any]:
    if tensor.binary:
        return tensor.json()
    values = tensor.values
    data = shortest(values.reshape(-1)) if tensor.datatype == "FP32" else values
    return {**tensor.json(), "data": data}
