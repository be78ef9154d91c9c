"""Calls a server of the Open Inference Protocol and tells its answer as JSON can hold it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import aio

from tests.oip.golden.cases import Case
from trillium.oip import open_inference_pb2 as pb

Answer: TypeAlias = dict[str, Any]
"""`code` and `message`; with OK also `response`, or `responses` of a stream."""

SERVICE = "inference.GRPCInferenceService"
STREAM = "ModelStreamInfer"
TIMEOUT_S = 30.0


async def answer(channel: aio.Channel, case: Case) -> Answer:
    """What the server answers."""
    try:
        if case.rpc == STREAM:
            return {"code": "OK", "message": "", "responses": await _streamed(channel, case)}
        call = channel.unary_unary(
            f"/{SERVICE}/{case.rpc}",
            request_serializer=_bytes,
            response_deserializer=_response_type(case.rpc).FromString,
        )
        response = await call(case.requests[0], timeout=TIMEOUT_S)
    except aio.AioRpcError as error:
        return {"code": error.code().name, "message": error.details()}
    return {"code": "OK", "message": "", "response": _plain(response)}


async def _streamed(channel: aio.Channel, case: Case) -> list[Any]:
    async def requests() -> AsyncIterator[Message | bytes]:
        for request in case.requests:
            yield request

    call = channel.stream_stream(
        f"/{SERVICE}/{case.rpc}",
        request_serializer=_bytes,
        response_deserializer=_response_type(case.rpc).FromString,
    )
    stream = call(requests(), timeout=TIMEOUT_S)
    try:
        return [_plain(each) async for each in stream]
    except asyncio.CancelledError:
        # grpc.aio raises this for a stream that the server ends with CANCELLED.
        if not stream.done():
            raise
        return ["CANCELLED"]


def _response_type(rpc: str) -> Any:
    return getattr(pb, f"{rpc}Response")


def _bytes(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def _plain(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
