"""Reads and checks requests; a request that is invalid is refused with every invalid field."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope

from trillium.errors import Cancelled, Code, InvalidRequest, Violation
from trillium.rpc.budget import Budget
from trillium.violations import MAX_VIOLATIONS, Violations

from .callers import Callers
from .config import LONGEST_TIMEOUT_S, SHORTEST_TIMEOUT_S, GatewayConfig
from .operation import JSON, HttpRequest, Operation, RawBody
from .problems import HttpError
from .strict_json import parse

TIMEOUT_HEADER = "request-timeout"
MOST_PARAMETERS = 256
"""Largest number of parameters in one query; more than any operation takes."""
_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BODY_METHODS = ("POST", "PUT")
_ALTERNATIVES = (
    "str",
    "int",
    "list[float]",
    "list[list[float]]",
    "list[object]",
    "list[nullable[float]]",
    "list[list[nullable[float]]]",
)
"""What pydantic adds to the path of a field that may have one of several types."""


M = TypeVar("M", bound=BaseModel)


class Held:
    """What one request holds of the bytes in flight."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Hold that many more. Raises Overloaded."""
        self._budget.take(size)
        self.size += size


class Reader:
    """Reads requests within the limits of a config, and finds out who sends them."""

    def __init__(self, config: GatewayConfig, callers: Callers) -> None:
        self._config = config
        self._callers = callers
        self._budget = Budget(config.max_bytes_in_flight)

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """Counts the body of one request, which `read` is given, while it is served."""
        held = Held(self._budget)
        try:
            yield held
        finally:
            self._budget.give_back(held.size)

    async def read(
        self,
        operation: Operation,
        scope: Scope,
        receive: Receive,
        request_id: str,
        traced: bool,
        held: Held,
    ) -> HttpRequest:
        """The request, checked. Raises InvalidRequest, MalformedMessage, HttpError, Overloaded,
        Cancelled."""
        started = time.monotonic()
        headers = Headers(scope=scope)
        path: Mapping[str, str] = scope["path_params"]
        violations = Violations()
        timeout_s = violations.check(lambda: _timeout_s(headers.get(TIMEOUT_HEADER)))
        violations.extend(_wrong_path(operation, path))
        query = violations.check(lambda: _query(operation, _parameters(scope["query_string"])))
        violations.raise_any()
        credentials = () if operation.local else self._callers.metadata(scope, headers)
        raw = b""
        body = None
        if operation.method in _BODY_METHODS:
            raw = await self._body(headers, receive, held)
            body = _parsed(operation, headers, raw)
        return HttpRequest(
            path=path,
            query=query,
            body=body,
            raw=raw,
            headers=headers,
            credentials=credentials,
            deadline=started + (self._default_s(operation) if timeout_s is None else timeout_s),
            timed=timeout_s is not None,
            request_id=request_id,
            traced=traced,
        )

    def _default_s(self, operation: Operation) -> float:
        config = self._config
        return config.verb_timeout_s if operation.waits else config.default_timeout_s

    async def _body(self, headers: Headers, receive: Receive, held: Held) -> bytes:
        """The body. Raises HttpError if it is too large or does not arrive in time, Cancelled."""
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise unsupported(f"content-encoding is {encoding[:60]!r}; expected identity")
        most, within_s = self._config.max_body_bytes, self._config.default_timeout_s
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > most:
            raise _too_large(f"has {announced} bytes", most)
        try:
            async with asyncio.timeout(within_s):
                return await _received(receive, most, held)
        except TimeoutError as error:
            text = f"the body did not arrive within {within_s:g} s"
            code = Code.DEADLINE_EXCEEDED
            raise HttpError(408, code, "BODY_TIMEOUT", text, {"connection": "close"}) from error


async def _received(receive: Receive, most: int, held: Held) -> bytes:
    """The parts of a body of at most `most` bytes."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the caller closed the connection before the body was read")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large("is larger", most)
        held.take(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def read_json(model: type[M], raw: bytes) -> M:
    """The body as that model. Raises MalformedMessage, and InvalidRequest as `checked` does."""
    return checked(model, parse(raw))


def checked(model: type[M], value: Any) -> M:
    """`value` as that model. Raises InvalidRequest with every invalid field, up to the limit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[:MAX_VIOLATIONS]
        raise InvalidRequest([_violation(each) for each in found]) from error


def media_type_of(headers: Headers) -> str:
    """The content type without its parameters, in lower case; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed(operation: Operation, headers: Headers, raw: bytes) -> Any:
    model = operation.body
    if model is None:
        if raw:
            raise InvalidRequest.of("body", f"has {len(raw)} bytes; expected no body")
        return None
    if isinstance(model, RawBody):
        return None
    if not raw:
        if operation.body_optional:
            return model()
        raise InvalidRequest.of("body", "is empty; expected a JSON object")
    media_type = media_type_of(headers)
    if re.fullmatch(r"application/(json|.*\+json)", media_type) is None:
        raise unsupported(f"content-type is {media_type[:60]!r}; expected {JSON}")
    return read_json(model, raw)


def unsupported(text: str) -> HttpError:
    """A content type or coding that the gateway does not read; `text` names it."""
    code = Code.INVALID_ARGUMENT
    return HttpError(415, code, "UNSUPPORTED_MEDIA_TYPE", text, {"connection": "close"})


def _too_large(what: str, most: int) -> HttpError:
    text = f"the body {what}; expected at most {most} bytes"
    # The rest of the body is not read, so the connection cannot be used again.
    return HttpError(413, Code.INVALID_ARGUMENT, "BODY_TOO_LARGE", text, {"connection": "close"})


def _timeout_s(text: str | None) -> float | None:
    """The seconds of the header; None without it."""
    if text is None:
        return None
    least, most = SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S
    if _NUMBER.fullmatch(text) is None or not least <= float(text) <= most:
        expected = f"expected a number of seconds from {least:g} to {most:g}"
        raise InvalidRequest.of(f"header {TIMEOUT_HEADER}", f"is {text[:60]!r}; {expected}")
    return float(text)


def _wrong_path(operation: Operation, path: Mapping[str, str]) -> Iterator[Violation]:
    for each in operation.parameters:
        if not each.allows(path[each.name]):
            text = f"is {path[each.name][:80]!r}; expected a match of {each.pattern}"
            yield Violation(each.name, text)


def _parameters(raw: bytes) -> QueryParams:
    """The parameters of a query, which are counted before they are parsed."""
    count = raw.count(b"&") + 1
    if count > MOST_PARAMETERS:
        text = f"has {count} parameters: expected at most {MOST_PARAMETERS}; send fewer"
        raise InvalidRequest.of("query", text)
    return QueryParams(raw)


def _query(operation: Operation, given: QueryParams) -> Any:
    """The query as the operation's model. Raises InvalidRequest with every invalid parameter."""
    model = operation.query
    violations = Violations()
    values: dict[str, Any] = {}
    for name in given:
        texts = given.getlist(name)
        if model is None:
            violations.add(name[:80], "is not a known parameter; this operation has none")
        elif name in model.model_fields and _is_list(model, name):
            values[name] = texts
        else:
            values[name] = texts[0]
            if len(texts) > 1:
                violations.add(name[:80], "is given more than once")
    query = None if model is None else violations.check(partial(checked, model, values))
    violations.raise_any()
    return query


def _is_list(model: type[BaseModel], name: str) -> bool:
    return getattr(model.model_fields[name].annotation, "__origin__", None) is list


def _violation(each: Any) -> Violation:
    path = field_path(each["loc"])
    if each["type"] == "missing":
        return Violation(path, "is required")
    if each["type"] == "extra_forbidden":
        return Violation(path, "is not a known field")
    if each["type"] in ("model_type", "dict_type"):
        return Violation(path, f"is {_shown(each['input'])}; expected an object")
    expected = each["msg"]
    return Violation(path, f"is {_shown(each['input'])}; {expected[:1].lower()}{expected[1:]}")


def field_path(parts: Sequence[str | int]) -> str:
    """The path of a field as a caller would write it: `data[0][3]`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in _ALTERNATIVES:
            text += f".{part[:80]}" if text else part[:80]
    return text or "body"


def _shown(value: Any) -> str:
    """A value as an error message shows it; a large one is described instead."""
    match value:
        case dict():
            return "an object"
        case list():
            return f"an array of {len(value)}"
        case str():
            return ascii(value[:60])
        case bool() | None:
            return str(value).lower() if value is not None else "null"
        case int() if abs(value) >= 10**18:
            return "a very large number"
        case _:
            return str(value)
