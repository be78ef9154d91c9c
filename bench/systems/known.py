"""Every system of a run: how it is started, what it is asked, and whether it answers right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.processes import free_port, python, running
from bench.systems.naive import LABELS
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.tensor.v1 import tensor_pb2

METHOD = "/trillium.aggregator.v1.AggregatorService/Classify"

Rows = NDArray[np.float32]
"""Shape [n, features]."""


@dataclass(frozen=True, slots=True)
class Up:
    """A system that is up."""

    name: str
    address: str
    """host:port of its front."""
    pids: tuple[int, ...]
    method: str
    request: Callable[[Rows], bytes]
    """The message that asks for these rows."""
    probabilities: Callable[[bytes], Rows] | None
    """Reads [n, classes] from an answer; None for a system that does no work."""
    labels: Callable[[bytes], list[str]] | None
    plain_http: bool = False
    """Asked with POST over HTTP/1.1; `method` is then the path, and messages are JSON."""
    predictors: tuple[str, ...] = ()
    """Where predictors are that tell of the batches they had; none in systems that have none."""


def request(rows: Rows) -> bytes:
    """A Classify message with every class's probability."""
    matrix = tensor_pb2.Float32Matrix(
        row_count=rows.shape[0],
        column_count=rows.shape[1],
        data=rows.astype("<f4", copy=False).tobytes(),
    )
    return pb.ClassifyRequest(matrix=matrix, include_probabilities=True).SerializeToString()


def probabilities(answer: bytes) -> Rows:
    """[n, classes] of a Classify answer."""
    packed = pb.ClassifyResponse.FromString(answer).packed
    matrix = packed.probabilities
    return np.frombuffer(matrix.data, "<f4").reshape(matrix.row_count, matrix.column_count)


def labels(answer: bytes) -> list[str]:
    """The label of each row of a Classify answer."""
    said = pb.ClassifyResponse.FromString(answer)
    return [said.class_labels[index] for index in said.packed.label_indexes]


@contextmanager
def trillium(models: Path, folder: Path, name: str = "trillium", workers: int = 1) -> Iterator[Up]:
    """This project: an aggregator and three predictors behind unix sockets."""
    address = f"127.0.0.1:{free_port()}"
    sockets = {label: f"unix:{folder}/{name}-{label}.sock" for label in LABELS}
    predictors = [
        python(
            "predictor", "--listen", sockets[label], "--model", str(models / f"iris-{label}.onnx")
        )
        for label in LABELS
    ]
    words = [word for label in LABELS for word in ("--predictor", f"{label}={sockets[label]}")]
    words += ["--workers", str(workers)]
    aggregator = python("aggregator", "--listen", address, *words)
    with running(aggregator, *predictors, log=folder / f"{name}.log") as pids:
        yield Up(
            name,
            address,
            tuple(pids),
            METHOD,
            request,
            probabilities,
            labels,
            predictors=tuple(sockets.values()),
        )


@contextmanager
def naive(models: Path, folder: Path) -> Iterator[Up]:
    """Three unary calls and a gather for each request (A)."""
    address = f"127.0.0.1:{free_port()}"
    module = "bench.systems.naive"
    places = [f"127.0.0.1:{free_port()}" for _ in LABELS]
    predictors = [
        python(module, "--predictor", place, str(models / f"iris-{label}.onnx"))
        for place, label in zip(places, LABELS, strict=True)
    ]
    front = python(module, address, *places)
    with running(front, *predictors, log=folder / "naive.log") as pids:
        yield Up("naive", address, tuple(pids), METHOD, request, probabilities, labels)


@contextmanager
def echo(models: Path, folder: Path) -> Iterator[Up]:
    """A bare grpc.aio server that does nothing."""
    address = f"127.0.0.1:{free_port()}"
    with running(python("bench.systems.echo", address), log=folder / "echo.log") as pids:
        yield Up("echo", address, tuple(pids), METHOD, request, None, None)


Start: TypeAlias = Callable[[Path, Path], AbstractContextManager[Up]]
"""Takes the folder of the models, and one for what it writes."""

OWN: dict[str, Start] = {"trillium": trillium, "naive": naive, "echo": echo}
"""What every run has."""


def with_workers(workers: int) -> dict[str, Start]:
    """The project with so many worker processes of the aggregator."""
    name = f"trillium-workers{workers}"
    return {name: partial(trillium, name=name, workers=workers)}
