"""The outermost layer: ids, limits, errors as problems, one line in the log for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from gateway.hosts import Hosts
from gateway.operation import problem_response
from gateway.problems import answer_of
from trillium.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    TrilliumError,
)
from trillium.logs import REQUEST_ID
from trillium.rpc.call import REQUEST_ID_KEY, open_call

log = logging.getLogger("gateway.requests")

RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class Served:
    """One request on its way."""

    method: str
    path: str
    request_id: str
    traced: bool
    status: int = 0
    """0 until the answer has begun."""


Inner = Callable[[Scope, Receive, Send, Served], Awaitable[None]]


class Edge:
    """The ASGI application: calls `inner` and answers whatever it raises."""

    def __init__(self, inner: Inner, *, hosts: Hosts, max_requests: int) -> None:
        self._inner = inner
        self._hosts = hosts
        self._max_requests = max_requests
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise AssertionError(f"uvicorn is told to speak HTTP only, not {scope['type']}")
        headers = Headers(scope=scope)
        served = _served(scope, headers)
        token = REQUEST_ID.set(served.request_id)
        started = time.monotonic()
        self.in_flight += 1

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                served.status = message["status"]
                _add_header(message, REQUEST_ID_KEY, served.request_id)
            await send(message)

        try:
            self._hosts.check(scope["method"], headers)
            if self.in_flight > self._max_requests:
                text = f"{self._max_requests} requests are being served; try again later"
                raise Overloaded(text, retry_after_s=RETRY_AFTER_S)
            await self._inner(scope, receive, answering, served)
        except Exception as error:
            # In a call of its own: an error in a variable here, in a frame of its traceback, would
            # be a cycle that keeps the request until a garbage collection.
            await _failed(error, served, started, scope, receive, answering)
        else:
            _log(served, started, logging.INFO if served.traced else logging.DEBUG, "OK")
        finally:
            self.in_flight -= 1
            REQUEST_ID.reset(token)


def _served(scope: Scope, headers: Headers) -> Served:
    chosen = headers.get(REQUEST_ID_KEY, "")
    # gRPC's metadata takes ASCII only; a strange id is replaced, as every service does.
    known = {REQUEST_ID_KEY: chosen} if chosen.isascii() else {}
    call = open_call(scope["path"], known, 0.0, "")
    return Served(scope["method"], scope["path"], call.request_id, call.traced)


def _told(error: Exception) -> TrilliumError:
    match error:
        case TrilliumError():
            return error
        case TimeoutError():
            return DeadlineExceeded("the time was up before there was an answer")
        case _:
            return InternalError("internal error; the gateway's log has the details")


async def _failed(
    error: Exception, served: Served, started: float, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer and log what ended a request."""
    told = _told(error)
    if not served.status:
        await _answer(told, served, scope, receive, send)
    _log_failure(served, started, told, error)


async def _answer(
    told: TrilliumError, served: Served, scope: Scope, receive: Receive, send: Send
) -> None:
    answer = answer_of(told, served.request_id, path=served.path)
    response = problem_response(answer.content, answer.status, answer.headers)
    await response(scope, receive, send)


def _add_header(message: MutableMapping[str, Any], name: str, value: str) -> None:
    message["headers"] = [*message.get("headers", ()), (name.encode(), value.encode())]


def _log_failure(served: Served, started: float, told: TrilliumError, error: Exception) -> None:
    outcome = f"{told.code.name}/{told.reason}: {told.message}"
    is_defect = told is not error and isinstance(told, InternalError)
    level = logging.ERROR if is_defect else logging.INFO
    _log(served, started, level, outcome, error=error if is_defect else None, upstream=told)


def _log(
    served: Served,
    started: float,
    level: int,
    outcome: str,
    *,
    error: Exception | None = None,
    upstream: TrilliumError | None = None,
) -> None:
    if not log.isEnabledFor(level):
        return
    facts = {
        "method": served.method,
        "path": served.path,
        "status": served.status,
        "outcome": outcome,
        "ms": round((time.monotonic() - started) * 1000, 3),
    }
    if upstream is not None and upstream.request_id not in ("", served.request_id):
        facts["upstream_request_id"] = upstream.request_id
    log.log(level, "request", extra=facts, exc_info=error)
