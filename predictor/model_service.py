"""ModelService: messages to artifacts and back, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from predictor.artifact import Facts, artifact_names, beside, find, told
from predictor.host import Description, ModelHost
from predictor.lifecycle import State
from trillium.errors import InvalidRequest, ModelNotFound, Violation, quoted
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.rpc import uploads
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, stream_unary, unary_unary

MODEL_SERVICE = "trillium.predictor.v1.ModelService"
MAX_CHUNK_BYTES = uploads.MAX_CHUNK_BYTES
_LONGEST_SHOWN = 60

_STATES = {
    State.EMPTY: model_pb.MODEL_STATE_EMPTY,
    State.LOADING: model_pb.MODEL_STATE_LOADING,
    State.READY: model_pb.MODEL_STATE_READY,
    State.REPLACING: model_pb.MODEL_STATE_READY,
    State.UNLOADING: model_pb.MODEL_STATE_UNLOADING,
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where artifacts may come from, and how large they may be."""

    directory: Path | None
    """Holds `<name>.onnx`; None when the predictor reads none itself."""
    max_bytes: int

    @property
    def names(self) -> list[str]:
        """What there is to load by name, sorted."""
        return [] if self.directory is None else artifact_names(self.directory)

    async def read(self, name: str) -> tuple[bytes, str, Facts]:
        """The artifact of that name, its SHA-256, and the facts beside it.

        Raises ModelNotFound, ModelRejected.
        """
        if self.directory is None:
            text = f"no model {name!r}: the predictor reads no artifacts itself (--models-dir)"
            raise ModelNotFound(f"{text}; send its chunks")
        return await asyncio.to_thread(_read, find(self.directory, name), self.max_bytes)


class ModelServicer:
    """Tells, loads and unloads the host's model."""

    def __init__(self, host: ModelHost, shelf: Shelf) -> None:
        self._host = host
        self._shelf = shelf
        self._room = uploads.Room(shelf.max_bytes)

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            MODEL_SERVICE,
            (
                unary_unary("GetModel", model_pb.GetModelRequest, self._get),
                stream_unary("LoadModel", model_pb.LoadModelRequest, self._load),
                unary_unary("UnloadModel", model_pb.UnloadModelRequest, self._unload),
            ),
        )

    async def _get(
        self, request: model_pb.GetModelRequest, call: Call
    ) -> model_pb.GetModelResponse:
        description = self._host.description
        response = model_pb.GetModelResponse(
            state=_STATES[self._host.state],
            model=None if description is None else model_message(description),
            in_flight_count=self._host.in_flight,
            fence=self._host.fence,
        )
        response.state_time.FromDatetime(self._host.state_time)
        return response

    async def _load(
        self, parts: AsyncIterator[model_pb.LoadModelRequest], call: Call
    ) -> model_pb.LoadModelResponse:
        header, first_chunk = await uploads.opening(parts)
        said, wrong_facts = _facts(header)
        wrong = uploads.wrong_fields(header, self._shelf.max_bytes, chunked=first_chunk is not None)
        wrong += wrong_facts
        if wrong:
            raise InvalidRequest(wrong)
        size = self._shelf.max_bytes if first_chunk is None else header.size_bytes
        async with self._room.taken(size):
            if first_chunk is None:
                artifact, digest, near = await self._shelf.read(header.name)
                said = near.overridden_by(said)
            else:
                artifact, digest = await uploads.assembled(first_chunk, parts, size)
            if header.sha256:
                uploads.check_digest(f"the artifact of {header.name}", digest, header.sha256)
            description = await self._host.load(
                header.name, artifact, digest, said, fence=header.fence
            )
        return model_pb.LoadModelResponse(model=model_message(description))

    async def _unload(
        self, request: model_pb.UnloadModelRequest, call: Call
    ) -> model_pb.UnloadModelResponse:
        gone = await self._host.unload(fence=request.fence)
        return model_pb.UnloadModelResponse(digest="" if gone is None else gone.digest)


def model_message(description: Description) -> model_pb.Model:
    """A loaded model as the message that describes it."""
    facts = description.facts
    return model_pb.Model(
        name=description.name,
        digest=description.digest,
        ensemble=facts.ensemble,
        class_label=facts.class_label,
        feature_count=description.feature_count,
        feature_names=facts.feature_names,
        sample=facts.sample,
        ensemble_class_labels=facts.class_labels,
        input_dtype=description.input_dtype,
        size_bytes=description.size_bytes,
        metadata=facts.others,
    )


def _facts(header: model_pb.LoadModelHeader) -> tuple[Facts, list[Violation]]:
    """What the header says of the model, and every field of it that is wrong."""
    facts, wrong = told(
        ensemble=header.ensemble,
        class_label=header.class_label,
        class_labels=list(header.ensemble_class_labels),
        positive_column=header.positive_column if header.HasField("positive_column") else None,
        output_name=header.output_name,
        feature_names=list(header.feature_names),
        sample=list(header.sample),
    )
    fields = {"class_labels": "ensemble_class_labels"}
    return facts, [
        Violation(
            f"header.{fields.get(name, name)}",
            f"is {_shown(header, fields.get(name, name))}; {text}",
        )
        for name, text in wrong.items()
    ]


def _shown(header: model_pb.LoadModelHeader, field: str) -> str:
    """The value of a field, short."""
    value = getattr(header, field)
    if isinstance(value, int | str):
        return quoted(value) if isinstance(value, str) else str(value)
    text = ascii(list(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _read(path: Path, max_bytes: int) -> tuple[bytes, str, Facts]:
    """An artifact that the predictor reads itself: bytes, SHA-256, and the facts beside it."""
    return (*read_artifact(path, max_bytes), beside(path))


def read_artifact(path: Path, max_bytes: int) -> tuple[bytes, str]:
    """The bytes of an artifact and their SHA-256; raises ModelNotFound."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelNotFound(f"{path} has {size} bytes; at most {max_bytes} are read")
        artifact = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"cannot read the model {path}: {error.strerror}") from error
    return artifact, hashlib.sha256(artifact).hexdigest()
