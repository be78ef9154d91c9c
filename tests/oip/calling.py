"""Calls GRPCInferenceService with our own messages, and reads what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from grpc import aio

from tests.oip.golden.cases import infer, tensor
from trillium.oip import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
STREAM = f"/{SERVICE}/ModelStreamInfer"


async def call(
    channel: aio.Channel,
    rpc: str,
    request: Any = None,
    timeout: float = 60,  # noqa: ASYNC109 as gRPC names it
    **fields: Any,
) -> Any:
    """What an RPC answers to `request`, or to one of these fields."""
    kind = getattr(pb, f"{rpc}Request" if rpc != "ModelInfer" else "ModelInferRequest")
    method = channel.unary_unary(
        f"/{SERVICE}/{rpc}",
        request_serializer=kind.SerializeToString,
        response_deserializer=getattr(pb, f"{rpc}Response").FromString,
    )
    return await method(kind(**fields) if request is None else request, timeout=timeout)


def question(rows: npt.ArrayLike, model: str, **fields: Any) -> pb.ModelInferRequest:
    """A request with raw contents."""
    array = np.asarray(rows, "<f4")
    return infer(tensor(array.shape), raw=[array.tobytes()], model=model, **fields)


def streamed(
    channel: aio.Channel,
    requests: Iterator[pb.ModelInferRequest] | AsyncIterator[pb.ModelInferRequest],
) -> Any:
    """The answers of a stream."""
    method = channel.stream_stream(
        STREAM,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    return method(requests, timeout=60)


def numbers(response: pb.ModelInferResponse, name: str = "probabilities") -> npt.NDArray[Any]:
    """A raw FP32 output."""
    for index, output in enumerate(response.outputs):
        if output.name == name:
            flat = np.frombuffer(response.raw_output_contents[index], "<f4")
            return flat.reshape(tuple(output.shape))
    raise AssertionError(f"no output {name}")
