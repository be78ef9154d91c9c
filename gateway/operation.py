"""The operations of the API, one for each method of each path, and the request that a handler gets.

Routes, checks and the OpenAPI document all derive from the list of operations.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from starlette.datastructures import Headers
from starlette.responses import Response

from trillium.rpc.call import REQUEST_ID_KEY, STICKY_KEY

from .few_errors import few_unknown_keys
from .problems import MEDIA_TYPE

JSON = "application/json"
SERVER_STATUSES = (401, 403, 429, 499, 500, 501, 503, 504)
"""Statuses of problems of every operation that calls a service behind the gateway."""


class Strict(BaseModel):
    """Base of request bodies: no unknown keys, no strings for numbers, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _look_at_few(cls, value: Any) -> Any:
        return few_unknown_keys(cls, value)


class Query(BaseModel):
    """Base of query parameters, which arrive as strings."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class PathParameter:
    """A variable part of a path."""

    name: str
    description: str
    pattern: str
    example: str

    def allows(self, value: str) -> bool:
        return re.fullmatch(self.pattern.strip("^$"), value) is not None


_ID = "[a-z]([a-z0-9-]{0,%d}[a-z0-9])?"
_NAME = "^[^/:]{1,128}$"
PATH_PARAMETERS: Mapping[str, PathParameter] = {
    each.name: each
    for each in (
        PathParameter("deployment", "Id of a deployment.", f"^{_ID % 38}$", "a1"),
        PathParameter("run", "Id of a run.", f"^{_ID % 30}$", "r1"),
        PathParameter("ensemble", "Name of the ensemble.", _NAME, "iris"),
        PathParameter(
            "model", "Name of the ensemble or of one class's model.", "^.{1,256}$", "iris"
        ),
        PathParameter("dataset", "Name of the dataset.", _NAME, "iris"),
        PathParameter("number", "Number of the version or revision.", "^[1-9][0-9]{0,8}$", "2"),
        PathParameter(
            "version",
            "Version of the model: the revision of its ensemble, or 1.",
            "^[0-9]{1,9}$",
            "1",
        ),
        PathParameter("asset", "Name of a file.", "^[a-z]+[.](js|css)$", "page.js"),
    )
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A checked request."""

    path: Mapping[str, str]
    """The parameters of the path."""
    query: Any
    """The operation's query model."""
    body: Any
    """The operation's body model; None without a body."""
    raw: bytes
    """The body as received."""
    headers: Headers
    credentials: tuple[tuple[str, str], ...]
    """Metadata that identifies the caller to the services behind the gateway."""
    deadline: float
    """On the monotonic clock."""
    timed: bool
    """Whether the caller set the deadline."""
    request_id: str
    traced: bool
    """Whether the caller chose the request id."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; at least a little, so that the called service reports it."""
        return max(0.001, self.deadline - time.monotonic())

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of the calls for this request: who asks; an id that the caller chose, which is
        traced there; and its sticky key, which chooses among revisions."""
        sticky_key = self.headers.get(STICKY_KEY, "")
        more = ((STICKY_KEY, sticky_key),) if sticky_key.isascii() and sticky_key else ()
        if self.traced:
            more = ((REQUEST_ID_KEY, self.request_id), *more)
        return (*self.credentials, *more)


@dataclass(frozen=True, slots=True)
class Promise:
    """A response of an operation, other than problems."""

    status: int
    description: str
    schema: Any = None
    """A protobuf message class, a pydantic model, a JSON Schema, or None for no body."""
    media_type: str = JSON
    example: Any = None


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body that the handler reads itself, with its content for the OpenAPI document."""

    content: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    tag: str
    summary: str
    handler: Callable[[HttpRequest], Coroutine[Any, Any, Response]]
    promises: Sequence[Promise]
    description: str = ""
    body: type[BaseModel] | RawBody | None = None
    body_optional: bool = False
    body_example: Any = None
    query: type[BaseModel] | None = None
    refusals: Sequence[int] = ()
    """Statuses of problems in addition to those of every operation."""
    waits: bool = False
    """Whether it waits for a deployment or a run, and so has a longer default deadline."""
    changes: bool = False
    """Whether it changes something, and so completes even if the caller disconnects."""
    local: bool = False
    """Whether it calls no service behind the gateway."""
    hidden: bool = False
    """Whether the OpenAPI document leaves it out."""
    parameters: Sequence[PathParameter] = field(init=False)

    def __post_init__(self) -> None:
        names = re.findall(r"{(\w+)}", self.path)
        object.__setattr__(self, "parameters", tuple(PATH_PARAMETERS[name] for name in names))


def json_response(
    content: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = JSON,
) -> Response:
    """`content` as JSON. Raises ValueError for NaN and infinity."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), status, headers, media_type)


def problem_response(content: Any, status: int, headers: Mapping[str, str]) -> Response:
    """A problem."""
    return json_response(content, status, headers, MEDIA_TYPE)
