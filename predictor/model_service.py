"""ModelService: messages to artifacts and back, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

from trillium.model.messages import facts_in, fields_of
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.rpc import uploads
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.violations import Violations

from .host import ModelHost
from .lifecycle import ModelStage
from .models_folder import ModelsFolder

MODEL_SERVICE = "trillium.predictor.v1.ModelService"
MAX_CHUNK_BYTES = uploads.MAX_CHUNK_BYTES

_STATES = {
    ModelStage.EMPTY: model_pb.MODEL_STATE_EMPTY,
    ModelStage.LOADING: model_pb.MODEL_STATE_LOADING,
    ModelStage.READY: model_pb.MODEL_STATE_READY,
    ModelStage.REPLACING: model_pb.MODEL_STATE_READY,
    ModelStage.UNLOADING: model_pb.MODEL_STATE_UNLOADING,
}


class ModelServicer:
    """Describes, loads and unloads the host's model."""

    def __init__(self, host: ModelHost, folder: ModelsFolder) -> None:
        self._host = host
        self._folder = folder
        self._room = uploads.Room(folder.max_bytes)

    def service(self) -> Service:
        """The gRPC service of these methods."""
        return service_of(
            model_pb.DESCRIPTOR.services_by_name["ModelService"],
            {
                "GetModel": self._get,
                "LoadModel": self._load,
                "UnloadModel": self._unload,
            },
        )

    async def _get(
        self, request: model_pb.GetModelRequest, call: Call
    ) -> model_pb.GetModelResponse:
        description = self._host.description
        response = model_pb.GetModelResponse(
            state=_STATES[self._host.state],
            model=None if description is None else model_pb.Model(**fields_of(description)),
            in_flight_count=self._host.in_flight,
            fence=self._host.fence,
        )
        response.state_time.FromDatetime(self._host.state_time)
        return response

    async def _load(
        self, parts: AsyncIterator[model_pb.LoadModelRequest], call: Call
    ) -> model_pb.LoadModelResponse:
        header, first_chunk = await uploads.opening(parts)
        chunked, max_bytes = first_chunk is not None, self._folder.max_bytes
        wrong = Violations()
        wrong.extend(uploads.wrong_fields(header, max_bytes, chunked=chunked))
        declared = facts_in(header, wrong)
        wrong.raise_any()
        size = header.size_bytes if chunked else max_bytes
        async with self._room.taken(size):
            if first_chunk is None:
                artifact, digest, facts = await self._folder.read(header.name)
                declared = facts.overridden_by(declared)
            else:
                artifact, digest = await uploads.assembled(first_chunk, parts, size)
            if header.sha256:
                uploads.check_digest(f"the artifact of {header.name}", digest, header.sha256)
            description = await self._host.load(
                header.name, artifact, digest, declared, fence=header.fence
            )
        return model_pb.LoadModelResponse(model=model_pb.Model(**fields_of(description)))

    async def _unload(
        self, request: model_pb.UnloadModelRequest, call: Call
    ) -> model_pb.UnloadModelResponse:
        unloaded = await self._host.unload(fence=request.fence)
        return model_pb.UnloadModelResponse(digest="" if unloaded is None else unloaded.digest)
