"""The Open Inference Protocol over HTTP: every request becomes a gRPC call of the aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from pydantic import BaseModel, Field
from starlette.responses import Response

from trillium.errors import Code, InvalidRequest, TrilliumError
from trillium.oip import open_inference_pb2 as pb

from .backend import Aggregator
from .messages import to_json
from .operation import JSON, HttpRequest, Operation, Promise, RawBody, Strict, json_response
from .reading import media_type_of, read_json, unsupported
from .scoring import renamed
from .tensors import BINARY, LENGTH_HEADER, InferRequest, InferResponse, to_message, to_response

TAG = "Open Inference Protocol"
_BINARY_SCHEMA = {"type": "string", "format": "binary"}
_INDEX = [pb.RepositoryIndexResponse.ModelIndex]
_EXAMPLE = {
    "inputs": [
        {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]},
    ]
}
_BODY = RawBody(
    {
        JSON: {"schema": InferRequest, "example": _EXAMPLE},
        BINARY: {"schema": _BINARY_SCHEMA},
    },
    f"JSON, or JSON followed by binary tensors. The header {LENGTH_HEADER} gives the length of the "
    "JSON.",
)


class IndexBody(Strict):
    """Which models to list."""

    ready: bool = Field(default=False, description="List only the models that are ready.")


class ModelReady(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool


class OpenInference:
    """The protocol's routes: for the ensemble as one model, and for each class as another."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET", "/v2", TAG, "Describe the server", self._server,
                (Promise(200, "Name, version and extensions.", pb.ServerMetadataResponse),),
            ),
            Operation(
                "GET", "/v2/health/live", TAG, "Report whether the gateway is running", self._live,
                (Promise(200, "It is.", pb.ServerLiveResponse),), local=True,
            ),
            Operation(
                "GET", "/v2/health/ready", TAG, "Report whether every class is ready", self._ready,
                (
                    Promise(200, "Every class is ready.", pb.ServerReadyResponse),
                    Promise(503, "At least one class is not ready.", pb.ServerReadyResponse),
                ),
            ),
            Operation(
                "POST", "/v2/repository/index", TAG, "List the models", self._index,
                (Promise(200, "The ensemble, then its classes.", _INDEX),),
                body=IndexBody, body_optional=True,
            ),
            self._statistics_at("/v2/models/stats"),
            *self._of_model("/v2/models/{model}"),
            *self._of_model("/v2/models/{model}/versions/{version}"),
        )  # fmt: skip

    def _statistics_at(self, path: str) -> Operation:
        return Operation(
            "GET", path, TAG, "Report what was requested of a model", self._statistics,
            (Promise(200, "Counts and durations.", pb.ModelStatisticsResponse),), refusals=(404,),
        )  # fmt: skip

    def _of_model(self, path: str) -> Sequence[Operation]:
        return (
            Operation(
                "GET", path, TAG, "Describe the inputs and outputs of a model", self._metadata,
                (Promise(200, "The model.", pb.ModelMetadataResponse),), refusals=(404,),
            ),
            Operation(
                "GET", f"{path}/config", TAG, "Get the configuration of a model", self._config,
                (Promise(200, "The configuration.", pb.ModelConfig),), refusals=(404,),
            ),
            self._statistics_at(f"{path}/stats"),
            Operation(
                "GET", f"{path}/ready", TAG, "Report whether a model is ready", self._model_ready,
                (
                    Promise(200, "The model is ready.", ModelReady),
                    Promise(503, "The model is not ready, or unknown.", ModelReady),
                ),
                refusals=(404,),
            ),
            Operation(
                "POST", f"{path}/infer", TAG, "Score rows", self._infer,
                (
                    Promise(200, "The outputs, in the requested order.", InferResponse),
                    Promise(200, "The same, binary ones after the JSON.", _BINARY_SCHEMA, BINARY),
                ),
                body=_BODY, refusals=(404,),
            ),
        )  # fmt: skip

    async def _live(self, http: HttpRequest) -> Response:
        return json_response({"live": True})

    async def _ready(self, http: HttpRequest) -> Response:
        ready = await self._is_ready(pb.ServerReadyRequest(), http)
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, http: HttpRequest) -> Response:
        ready = await self._is_ready(pb.ModelReadyRequest(**_model(http)), http)
        answer = {"name": http.path["model"], "ready": ready}
        return json_response(answer, 200 if ready else 503)

    async def _server(self, http: HttpRequest) -> Response:
        server = to_json(await self._aggregator.infer(pb.ServerMetadataRequest(), http))
        server["extensions"].append("binary_tensor_data")
        return json_response(server)

    async def _index(self, http: HttpRequest) -> Response:
        request = pb.RepositoryIndexRequest(ready=http.body.ready)
        answer = await self._aggregator.infer(request, http)
        return json_response([to_json(each) for each in answer.models])

    async def _metadata(self, http: HttpRequest) -> Response:
        request = pb.ModelMetadataRequest(**_model(http))
        return json_response(to_json(await self._aggregator.infer(request, http)))

    async def _config(self, http: HttpRequest) -> Response:
        request = pb.ModelConfigRequest(**_model(http))
        return json_response(to_json((await self._aggregator.infer(request, http)).config))

    async def _statistics(self, http: HttpRequest) -> Response:
        request = pb.ModelStatisticsRequest(**_model(http))
        return json_response(to_json(await self._aggregator.infer(request, http)))

    async def _infer(self, http: HttpRequest) -> Response:
        header, raw = _split(http)
        body = read_json(InferRequest, header)
        model = _model(http)
        request = to_message(body, raw, model=model["name"], version=model["version"])
        try:
            answer = await self._aggregator.infer(request, http)
        except InvalidRequest as error:
            raise renamed(error, "raw_input_contents", "inputs[0]") from error
        return to_response(answer, body)

    async def _is_ready(self, request: Message, http: HttpRequest) -> bool:
        try:
            return bool((await self._aggregator.infer(request, http)).ready)
        except TrilliumError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return False


def _model(http: HttpRequest) -> Mapping[str, str]:
    """The model that the path names, in the fields of a request; empty fields without one."""
    return {"name": http.path.get("model", ""), "version": http.path.get("version", "")}


def _split(http: HttpRequest) -> tuple[bytes, bytes]:
    """The JSON of a request, and the binary tensors after it."""
    media_type = media_type_of(http.headers)
    # Triton's clients send no content type at all.
    if media_type not in ("", JSON, BINARY):
        raise unsupported(f"content-type is {media_type[:60]!r}; expected {JSON} or {BINARY}")
    length = http.headers.get(LENGTH_HEADER)
    if length is None:
        return http.raw, b""
    size = len(http.raw)
    if not (length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= size):
        text = f"is {length[:40]!r}; expected a number of bytes up to {size}, the body's size"
        raise InvalidRequest.of(f"header {LENGTH_HEADER}", text)
    return http.raw[: int(length)], http.raw[int(length) :]
