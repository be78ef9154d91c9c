"""Errors as `application/problem+json` (RFC 9457), with the gRPC code, reason and fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from trillium.errors import Code, InvalidRequest, Overloaded, PredictorsFailed, TrilliumError

MEDIA_TYPE = "application/problem+json"

CLIENT_CLOSED_REQUEST = 499
STATUS_OF: Mapping[Code, int] = {
    Code.CANCELLED: CLIENT_CLOSED_REQUEST,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""From the comments of google/rpc/code.proto."""


class HttpError(TrilliumError):
    """An error of HTTP itself, or one whose status differs from that of its code."""

    def __init__(
        self,
        status: int,
        code: Code,
        reason: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.reason = reason
        self.headers = headers or {}


class WrongField(BaseModel):
    """An invalid field of the request."""

    field: str = Field(description="Path of the field, such as `data[0][3]`.")
    description: str = Field(description="What is wrong with the value, and what is expected.")


class MissingClass(BaseModel):
    """A class that failed."""

    class_label: str
    address: str = Field(description="Address of its predictor.")
    phase: str = Field(description="Where it failed: connect, queue or run.")
    message: str
    elapsed_s: float = Field(description="Seconds until it failed.")
    timed_out: bool = Field(
        description="Whether the deadline passed, rather than the predictor failed."
    )
    rejected: bool = Field(
        description="Whether the rows are at fault, so that asking again fails again."
    )


class Problem(BaseModel):
    """An error, in the form of RFC 9457."""

    type: str = Field(description="Always about:blank; `reason` identifies the error.")
    title: str = Field(description="The name of the status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="Human-readable explanation of the error.")
    code: str = Field(description="The gRPC code, such as INVALID_ARGUMENT.")
    reason: str = Field(description="Stable identifier for programs, such as INVALID_REQUEST.")
    request_id: str = Field(description="The id in the logs and in the header x-request-id.")
    fields: list[WrongField] = Field(default=[], description="The invalid fields, at most 20.")
    missing: list[MissingClass] = Field(default=[], description="The classes that failed.")
    retry_after_s: float | None = Field(
        default=None, description="Seconds after which a retry is safe."
    )
    error: str = Field(
        default="",
        description="Under /v2: the same as `detail`, as in the Open Inference Protocol.",
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """A problem as a response."""

    status: int
    content: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_of(error: TrilliumError, request_id: str, *, path: str) -> Answer:
    """The response for `error` to a request for `path`."""
    status = error.status if isinstance(error, HttpError) else STATUS_OF[error.code]
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": phrase(status),
        "status": status,
        "detail": error.message,
        "code": error.code.name,
        "reason": error.reason,
        "request_id": request_id,
    }
    match error:
        case InvalidRequest():
            content["fields"] = [
                {"field": each.field, "description": each.description} for each in error.violations
            ]
        case PredictorsFailed():
            content["missing"] = [missing_json(each) for each in error.failures]
        case _ if status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        case Overloaded():
            content["retry_after_s"] = error.retry_after_s
            headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if path.startswith("/v2"):
        content["error"] = error.message
    return Answer(status, content, headers)


def missing_json(failure: Any) -> dict[str, Any]:
    """A ClassFailure as JSON."""
    return {
        "class_label": failure.class_label,
        "address": failure.address,
        "phase": failure.phase.value,
        "message": failure.message,
        "elapsed_s": round(failure.elapsed_s, 6),
        "timed_out": failure.timed_out,
        "rejected": failure.rejected,
    }


def phrase(status: int) -> str:
    """The name of a status."""
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
