"""What a failed call says of itself, read from the wire by hand and not by the code under test."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

DETAILS_KEY = "grpc-status-details-bin"
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A google.rpc.Status taken apart."""

    code: str
    reason: str = ""
    domain: str = ""
    message: str = ""
    request_id: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    """Description by field, from a BadRequest."""
    retry_s: float | None = None


def taken_apart(status: Any) -> Failure:
    """The parts of a google.rpc.Status."""
    facts: dict[str, Any] = {}
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.RequestInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            facts |= {"reason": info.reason, "domain": info.domain}
        elif detail.Unpack(request):
            facts["request_id"] = request.request_id
        elif detail.Unpack(bad):
            facts["fields"] = {each.field: each.description for each in bad.field_violations}
        elif detail.Unpack(retry):
            facts["retry_s"] = retry.retry_delay.ToNanoseconds() / 1e9
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    return Failure(code=codes[status.code], message=status.message, **facts)


def failure_of(error: aio.AioRpcError) -> Failure:
    """What the call that raised `error` says; code and message alone without a Status."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            assert isinstance(value, bytes)
            failure = taken_apart(status_pb2.Status.FromString(value))
            assert (failure.code, failure.message) == (error.code().name, error.details())
            return failure
    return Failure(code=error.code().name, message=error.details() or "")


async def failed(call: Awaitable[Any]) -> Failure:
    """What a call that must fail answers."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


def was_still_writing(failure: Failure) -> bool:
    """Whether grpc.aio's client lost the server's status, because it came while the client wrote.

    It then makes this one up (grpc/grpc#36066). A server's INTERNAL has other words.
    """
    return failure == Failure(code="INTERNAL", message="Internal error from Core")


async def refused(call: Callable[[], Awaitable[Any]]) -> Failure:
    """What a call with a stream of requests answers that must fail and may fail early; made again
    when grpc.aio lost the answer."""
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        failure = await failed(call())
        if not was_still_writing(failure):
            return failure
    raise AssertionError(f"every answer of {_PATIENCE_S:g} s was lost")
