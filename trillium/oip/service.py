"""GRPCInferenceService: messages to the models of a server and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TypeVar

from google.protobuf.message import Message

import trillium
from trillium.clock import Clock
from trillium.errors import Draining, InvalidRequest, TrilliumError
from trillium.oip import describing, reading, writing
from trillium.oip import open_inference_pb2 as pb
from trillium.oip.codes import served_codes
from trillium.oip.model import VERSION, Models, ModelState, ServedModel
from trillium.oip.stream import answer_in_order
from trillium.rpc.call import Call
from trillium.rpc.methods import Method, Service, stream_stream, unary_unary

INFERENCE_SERVICE = "inference.GRPCInferenceService"

CLASSIFICATION = "classification"
MODEL_CONFIGURATION = "model_configuration"
MODEL_REPOSITORY = "model_repository"
STATISTICS = "statistics"

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class InferenceServicer:
    """Answers for the models of one server."""

    def __init__(
        self,
        models: Models,
        *,
        server_name: str,
        extensions: Sequence[str],
        is_ready: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`extensions` are what the server has of the protocol's; `is_ready` says whether all that
        it has to serve can be asked."""
        self._models = models
        self._server_name = server_name
        self._extensions = extensions
        self._is_ready = is_ready
        self._clock = clock
        self.draining = asyncio.Event()
        """Set when the server is about to stop: no model is ready then, and streams end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            INFERENCE_SERVICE,
            (
                self._unary("ServerLive", pb.ServerLiveRequest, self._server_live),
                self._unary("ServerReady", pb.ServerReadyRequest, self._server_ready),
                self._unary("ModelReady", pb.ModelReadyRequest, self._model_ready),
                self._unary("ServerMetadata", pb.ServerMetadataRequest, self._server_metadata),
                self._unary("ModelMetadata", pb.ModelMetadataRequest, self._model_metadata),
                unary_unary("ModelInfer", pb.ModelInferRequest, self._model_infer),
                stream_stream("ModelStreamInfer", pb.ModelInferRequest, self._model_stream_infer),
                self._unary("ModelConfig", pb.ModelConfigRequest, self._model_config),
                self._unary("ModelStatistics", pb.ModelStatisticsRequest, self._model_statistics),
                self._unary("RepositoryIndex", pb.RepositoryIndexRequest, self._repository_index),
                unary_unary("RepositoryModelLoad", pb.RepositoryModelLoadRequest, self._load),
                unary_unary("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, self._unload),
            ),
        )

    @staticmethod
    def _unary(name: str, request_type: type[Req], tell: Callable[[Req], Message]) -> Method:
        """An RPC that tells what is known, without waiting for anything."""

        async def handle(request: Req, call: Call) -> Message:
            with served_codes():
                return tell(request)

        return unary_unary(name, request_type, handle)

    def _server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready() and not self.draining.is_set())

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        reading.check_version(request.version, "version")
        fits = not request.version or int(request.version[:20]) == int(VERSION)
        ready = fits and self._models.is_ready(request.name) and not self.draining.is_set()
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
            reading.check_version(request.version, "version")
            models = self._models.served()
        told = [describing.statistics(each, self._models.statistics(each)) for each in models]
        return pb.ModelStatisticsResponse(model_stats=told)

    def _repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        known = {each.name for each in self._models.served()}
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=each.name,
                    version=VERSION if each.name in known else "",
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
        model = self._find(request.model_name, request.model_version, "model_version")
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

        async with aclosing(answer_in_order(requests, answer, self.draining)) as answers:
            async for response in answers:
                yield response
        if self.draining.is_set():
            raise Draining(
                "the server stops; what was taken has been answered, send the rest again"
            )

    async def _load(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        name = _name(request)
        if request.parameters:
            given = ", ".join(sorted(islice(request.parameters, 8)))
            text = f"holds {given[:200]!a}; nothing is taken, an artifact describes itself"
            raise InvalidRequest.of("parameters", text)
        await self._models.load(name)
        return pb.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        name = _name(request)
        await self._models.unload(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    def _find(self, name: str, version: str, field: str) -> ServedModel:
        reading.check_version(version, field)
        model = self._models.find(name)
        reading.check_has_version(model, version)
        return model


def _name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model's name; KServe's client has it in the field of the repository's."""
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidRequest.of("model_name", "is empty; the name of a model is wanted")
    return name
