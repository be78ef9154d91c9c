"""GRPCInferenceService: messages to the models of a server and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import wraps
from itertools import islice
from typing import TypeVar

from google.protobuf.message import Message

import trillium
from trillium.clock import Clock
from trillium.errors import InvalidRequest, TrilliumError
from trillium.oip import describing, reading, writing
from trillium.oip import open_inference_pb2 as pb
from trillium.oip.codes import served_codes
from trillium.oip.model import Models, ModelState, ServedModel
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.rpc.streams import answer_requests

INFERENCE_SERVICE = "inference.GRPCInferenceService"

CLASSIFICATION = "classification"
MODEL_CONFIGURATION = "model_configuration"
MODEL_REPOSITORY = "model_repository"
STATISTICS = "statistics"

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class InferenceServicer:
    """Serves the models of one server."""

    def __init__(
        self,
        models: Models,
        *,
        server_name: str,
        extensions: Sequence[str],
        is_ready: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`extensions` are the extensions of the protocol that the server supports; `is_ready`
        returns whether everything that it has to serve can be used."""
        self._models = models
        self._server_name = server_name
        self._extensions = extensions
        self._is_ready = is_ready
        self._clock = clock
        self.draining = asyncio.Event()
        """Set when the server is about to stop: no model is ready then, and streams end."""

    def service(self) -> Service:
        """The gRPC service of these methods."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
            {
                "ServerLive": _known(self._server_live),
                "ServerReady": _known(self._server_ready),
                "ModelReady": _known(self._model_ready),
                "ServerMetadata": _known(self._server_metadata),
                "ModelMetadata": _known(self._model_metadata),
                "ModelInfer": self._model_infer,
                "ModelStreamInfer": self._model_stream_infer,
                "ModelConfig": _known(self._model_config),
                "ModelStatistics": _known(self._model_statistics),
                "RepositoryIndex": _known(self._repository_index),
                "RepositoryModelLoad": self._load,
                "RepositoryModelUnload": self._unload,
            },
        )

    def _server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready() and not self.draining.is_set())

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        version = reading.version_of(request.version, "version")
        ready = self._models.is_ready(request.name, version) and not self.draining.is_set()
        return pb.ModelReadyResponse(ready=ready)

    def _server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=self._server_name,
            version=trillium.__version__,
            extensions=self._extensions,
        )

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return describing.metadata(self._find(request.name, request.version, "version"))

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = self._find(request.name, request.version, "version")
        return pb.ModelConfigResponse(config=describing.config(model))

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        if request.name:
            models: Sequence[ServedModel] = [self._find(request.name, request.version, "version")]
        else:
            reading.version_of(request.version, "version")
            models = self._models.served()
        told = [describing.statistics(each, self._models.statistics(each)) for each in models]
        return pb.ModelStatisticsResponse(model_stats=told)

    def _repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        known = {each.name: each.version for each in self._models.served()}
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=each.name,
                    version=known.get(each.name, ""),
                    state=each.state.value,
                    reason=each.reason,
                )
                for each in self._models.listed()
                if each.state is ModelState.READY or not request.ready
            ]
        )

    async def _model_infer(
        self, request: pb.ModelInferRequest, call: Call
    ) -> pb.ModelInferResponse:
        with served_codes():
            return await self._answer(request, call)

    async def _answer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        started = self._clock.monotonic()
        model = self._find(
            request.model_name, request.model_version, "model_version", call.sticky_key
        )
        question = reading.read(request, model)
        statistics = self._models.statistics(model)
        read = self._clock.monotonic()
        probabilities = await self._models.score(model, question.block, call, question.timeout_s)
        scored = self._clock.monotonic()
        response = writing.answer(request.id, model, question, probabilities)
        statistics.read.add(read - started)
        statistics.write.add(self._clock.monotonic() - scored)
        return response

    async def _model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncGenerator[pb.ModelStreamInferResponse]:
        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await self._answer(request, call)
            except TrilliumError as error:
                return pb.ModelStreamInferResponse(
                    error_message=error.message, infer_response=pb.ModelInferResponse(id=request.id)
                )
            return pb.ModelStreamInferResponse(infer_response=response)

        answers = answer_requests(requests, answer, self.draining, in_order=True)
        async with aclosing(answers):
            async for response in answers:
                yield response

    async def _load(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        name = _name(request)
        if request.parameters:
            given = ", ".join(sorted(islice(request.parameters, 8)))
            text = f"holds {given[:200]!a}; expected none: an artifact describes itself"
            raise InvalidRequest.of("parameters", text)
        await self._models.load(name)
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        name = _name(request)
        await self._models.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    def _find(
        self, name: str, version: str, field: str, sticky_key: str | None = None
    ) -> ServedModel:
        number = reading.version_of(version, field)
        model = self._models.find(name, number, sticky_key)
        reading.check_has_version(model, number)
        return model


def _name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model's name, which KServe's client sends in the field for the repository's."""
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidRequest.of("model_name", "is empty; expected the name of a model")
    return name


def _known(tell: Callable[[Req], Res]) -> Callable[[Req, Call], Awaitable[Res]]:
    """A handler that returns what is known, without waiting for anything."""

    @wraps(tell)
    async def handle(request: Req, call: Call) -> Res:
        with served_codes():
            return tell(request)

    return handle
