"""Talking to the predictor in a container, and what its process is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio

from tests.sound_artifacts import iris_rows, two_column_tensor
from tests.waiting import eventually
from trillium.healthcheck import SERVING, status_of
from trillium.predictor.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    predictor_service_pb2,
    predictor_service_pb2_grpc,
)
from trillium.rpc.channels import link_channel
from trillium.tensor.v1 import tensor_pb2

MODEL_SERVICE = "trillium.predictor.v1.ModelService"
MIB = 1024 * 1024


async def until_waiting_for_a_model(address: str) -> None:
    """Wait until the predictor there would take a LoadModel."""

    async def takes_models() -> bool:
        return await status_of(address, MODEL_SERVICE) == SERVING

    await eventually(takes_models, 60)


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[aio.Channel]:
    async with link_channel(address) as channel:
        yield channel


async def load_and_score(address: str) -> list[float]:
    """Load a model of setosa there and score the iris rows with it."""
    artifact = two_column_tensor()
    header = model_service_pb2.LoadModelHeader(
        name="setosa",
        sha256=hashlib.sha256(artifact).hexdigest(),
        size_bytes=len(artifact),
        class_label="setosa",
        positive_column=1,
    )
    rows = iris_rows().astype("<f4")
    matrix = tensor_pb2.Float32Matrix(
        row_count=rows.shape[0], column_count=rows.shape[1], data=rows.tobytes()
    )

    def parts() -> Iterator[model_service_pb2.LoadModelRequest]:
        yield model_service_pb2.LoadModelRequest(header=header)
        yield model_service_pb2.LoadModelRequest(chunk=artifact)

    async with channel_to(address) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        await models.LoadModel(parts(), timeout=60)
        predictor = predictor_service_pb2_grpc.PredictorServiceStub(channel)
        request = predictor_service_pb2.PredictRequest(matrix=matrix)
        answer = await predictor.Predict(request, timeout=60)
    scores: list[float] = np.frombuffer(answer.probabilities, "<f4").tolist()
    return scores


async def fill_memory(address: str, megabytes: int) -> None:
    """Begin a LoadModel with `megabytes` MiB and never end it; returns when the predictor is gone.

    Fails if it takes them all and lives on for a minute.
    """

    async def parts() -> AsyncIterator[model_service_pb2.LoadModelRequest]:
        yield model_service_pb2.LoadModelRequest(
            header=model_service_pb2.LoadModelHeader(
                name="large",
                sha256="0" * 64,
                size_bytes=megabytes * MIB,
                class_label="large",
            )
        )
        for _ in range(megabytes - 1):
            yield model_service_pb2.LoadModelRequest(chunk=b"x" * MIB)
        await eventually(lambda: False, 60)

    async with channel_to(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failure:
            await stub.LoadModel(parts(), timeout=60)
        assert failure.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, failure.value


def pids_with(word: str) -> list[int]:
    """The processes, ended but not yet reaped ones left out, that have `word` in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def status_of_process(pid: int) -> dict[str, str]:
    """What the system says of a process; raises FileNotFoundError if there is none, and
    ProcessLookupError if it ends just then."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_running(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped does not."""
    try:
        return status_of_process(pid)["State"][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files(pid: int) -> list[str]:
    """What a process has open; what it closes just then is left out."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found
