"""From a request to what its operation may rely on; everything wrong is told with its field."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope

from gateway.config import LONGEST_TIMEOUT_S, SHORTEST_TIMEOUT_S, GatewayConfig
from gateway.operation import JSON, Asked, Operation, RawBody
from gateway.problems import HttpError
from gateway.strict_json import parse
from trillium.errors import Cancelled, Code, InvalidRequest, Violation
from trillium.rows import MAX_VIOLATIONS

TIMEOUT_HEADER = "request-timeout"
MOST_PARAMETERS = 256
"""Of one query; more than any operation has a use for."""
_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BODY_METHODS = ("POST",)
_ALTERNATIVES = ("str", "int", "list[float]", "list[list[float]]")
"""What pydantic adds to the path of a field that may be one of several types."""


class Reader:
    """Reads requests within the limits of a config."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config

    async def read(
        self, operation: Operation, scope: Scope, receive: Receive, request_id: str, traced: bool
    ) -> Asked:
        """The request, checked. Raises InvalidRequest, MalformedMessage, HttpError, Cancelled."""
        headers = Headers(scope=scope)
        timeout_s = _timeout_s(headers.get(TIMEOUT_HEADER))
        config = self._config
        default_s = config.verb_timeout_s if operation.waits else config.default_timeout_s
        deadline = time.monotonic() + (default_s if timeout_s is None else timeout_s)
        path: Mapping[str, str] = scope["path_params"]
        wrong = _wrong_path(operation, path)
        query = _query(operation, _parameters(scope["query_string"]), wrong)
        if wrong:
            raise InvalidRequest(wrong[:MAX_VIOLATIONS])
        raw = b""
        body = None
        if operation.method in _BODY_METHODS:
            raw = await self._body(headers, receive)
            body = _parsed(operation, headers, raw)
        return Asked(
            path=path,
            query=query,
            body=body,
            raw=raw,
            headers=headers,
            deadline=deadline,
            timed=timeout_s is not None,
            request_id=request_id,
            traced=traced,
        )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The body. Raises HttpError when it is too large or does not come in time."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            text = (
                f"content-encoding is {headers['content-encoding'][:60]!r}; only identity is taken"
            )
            raise _unsupported(text)
        most, within_s = self._config.max_body_bytes, self._config.default_timeout_s
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > most:
            raise _too_large(f"has {announced} bytes", most)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(within_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Cancelled("the caller went away before the body was read")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise _too_large("is larger", most)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            text = f"the body did not arrive within {within_s:g} s"
            code = Code.DEADLINE_EXCEEDED
            raise HttpError(408, code, "BODY_TIMEOUT", text, {"connection": "close"}) from error


def checked(model: type[BaseModel], value: Any, prefix: str = "") -> Any:
    """`value` as that model. Raises InvalidRequest with every wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(_violations(error, prefix)) from error


def media_type_of(headers: Headers) -> str:
    """The content type without its parameters, in lower case; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed(operation: Operation, headers: Headers, raw: bytes) -> Any:
    model = operation.body
    if model is None:
        if raw:
            raise InvalidRequest.of("body", f"has {len(raw)} bytes; none is wanted here")
        return None
    if isinstance(model, RawBody):
        return None
    if not raw:
        if operation.body_optional:
            return model()
        raise InvalidRequest.of("body", "is empty; a JSON object is wanted")
    found = media_type_of(headers)
    if found != JSON and not (found.startswith("application/") and found.endswith("+json")):
        raise _unsupported(f"content-type is {found[:60]!r}; {JSON} is wanted")
    return checked(model, parse(raw))


def _unsupported(text: str) -> HttpError:
    code = Code.INVALID_ARGUMENT
    return HttpError(415, code, "UNSUPPORTED_MEDIA_TYPE", text, {"connection": "close"})


def _too_large(what: str, most: int) -> HttpError:
    text = f"the body {what}; at most {most} bytes allowed"
    # Whoever sends more than is taken is not listened to any longer.
    return HttpError(413, Code.INVALID_ARGUMENT, "BODY_TOO_LARGE", text, {"connection": "close"})


def _timeout_s(text: str | None) -> float | None:
    """The seconds of the header; None without it."""
    if text is None:
        return None
    least, most = SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S
    if _NUMBER.fullmatch(text) is None or not least <= float(text) <= most:
        allowed = f"a number of seconds from {least:g} to {most:g} is wanted"
        raise InvalidRequest.of(f"header {TIMEOUT_HEADER}", f"is {text[:60]!r}; {allowed}")
    return float(text)


def _wrong_path(operation: Operation, path: Mapping[str, str]) -> list[Violation]:
    return [
        Violation(each.name, f"is {path[each.name][:80]!r}; allowed: {each.pattern}")
        for each in operation.parameters
        if not each.allows(path[each.name])
    ]


def _parameters(raw: bytes) -> QueryParams:
    """The parameters of a query, which are counted before they are parsed."""
    count = raw.count(b"&") + 1
    if count > MOST_PARAMETERS:
        text = f"has {count} parameters: expected at most {MOST_PARAMETERS}; send fewer"
        raise InvalidRequest.of("query", text)
    return QueryParams(raw)


def _query(operation: Operation, given: QueryParams, wrong: list[Violation]) -> Any:
    """The query as the operation's model; what is wrong with it goes to `wrong`."""
    model = operation.query
    values: dict[str, Any] = {}
    for name in given:
        texts = given.getlist(name)
        if model is None:
            wrong.append(Violation(name[:80], "is no parameter of this; it takes none"))
        elif name in model.model_fields and _is_list(model, name):
            values[name] = texts
        else:
            values[name] = texts[0]
            if len(texts) > 1:
                wrong.append(Violation(name[:80], "is given more than once"))
    if model is None:
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong += _violations(error, "")
        return None


def _is_list(model: type[BaseModel], name: str) -> bool:
    return getattr(model.model_fields[name].annotation, "__origin__", None) is list


def _violations(error: ValidationError, prefix: str) -> list[Violation]:
    """Every wrong field, up to the limit."""
    found = error.errors(include_url=False)
    return [_violation(each, prefix) for each in found[:MAX_VIOLATIONS]]


def _violation(each: Any, prefix: str) -> Violation:
    path = field_path(each["loc"], prefix)
    if each["type"] == "missing":
        return Violation(path, "is missing")
    if each["type"] == "extra_forbidden":
        return Violation(path, "is not known here")
    if each["type"] in ("model_type", "dict_type"):
        return Violation(path, f"is {_shown(each['input'])}; an object is wanted")
    said = each["msg"]
    return Violation(path, f"is {_shown(each['input'])}; {said[:1].lower()}{said[1:]}")


def field_path(parts: Sequence[str | int], prefix: str = "") -> str:
    """The path of a field as a caller would write it: `data[0][3]`."""
    text = prefix
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in _ALTERNATIVES:
            text += f".{part[:80]}" if text else part[:80]
    return text or "body"


def _shown(value: Any) -> str:
    """A value in few words; never the whole of a large one."""
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
