"""The outermost layer: request ids, limits, errors as problems, and a log line per request."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from trillium.errors import (
    DeadlineExceeded,
    InternalError,
    Overloaded,
    TrilliumError,
)
from trillium.rpc.call import REQUEST_ID_KEY, open_call
from trillium.server.figures import SECONDS, Distribution, Family, Measure
from trillium.server.logs import REQUEST_ID

from .hosts import Hosts
from .operation import problem_response
from .problems import answer_of

log = logging.getLogger("gateway.requests")

RETRY_AFTER_S = 1.0
REQUEST_SECONDS = Measure(
    "http_server_request_duration_seconds",
    "histogram",
    "How long do requests take, and with which status do they end? 0: the caller had left.",
    ("http_request_method", "http_route", "http_response_status_code"),
)
REQUESTS_IN_FLIGHT = Measure(
    "trillium_requests_in_flight", "gauge", "How many requests are being served?"
)
MEASURES = (REQUEST_SECONDS, REQUESTS_IN_FLIGHT)


@dataclass(slots=True)
class Served:
    """A request that is being served."""

    method: str
    path: str
    request_id: str
    traced: bool
    status: int = 0
    """0 until the response has started."""
    route: str = ""
    """Path of the operation, with its parameters in braces; empty if there is none."""


Inner = Callable[[Scope, Receive, Send, Served], Awaitable[None]]


class Edge:
    """The ASGI application: calls `inner` and turns what it raises into a response."""

    def __init__(self, inner: Inner, *, hosts: Hosts, max_requests: int) -> None:
        self._inner = inner
        self._hosts = hosts
        self._max_requests = max_requests
        self.in_flight = 0
        self._seconds: dict[tuple[str, ...], Distribution] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise AssertionError(f"uvicorn is configured for HTTP only, got {scope['type']}")
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
                text = f"{self._max_requests} requests are already being served; try again later"
                raise Overloaded(text, retry_after_s=RETRY_AFTER_S)
            await self._inner(scope, receive, answering, served)
        except Exception as error:
            # A separate call, because this frame is part of the error's traceback: with the error
            # in a variable, a cycle would keep the request until a garbage collection.
            await _failed(error, served, started, scope, receive, answering)
        else:
            _log(served, started, logging.INFO if served.traced else logging.DEBUG, "OK")
        finally:
            self._count(served, time.monotonic() - started)
            self.in_flight -= 1
            REQUEST_ID.reset(token)

    def _count(self, served: Served, seconds: float) -> None:
        # Whatever a caller makes up is one label: their number has a bound.
        method = served.method if served.route else "_OTHER"
        key = (method, served.route, str(served.status))
        if key not in self._seconds:
            self._seconds[key] = Distribution(SECONDS)
        self._seconds[key].add(seconds)

    def figures(self) -> Iterator[Family]:
        """What was counted of its requests so far."""
        yield REQUEST_SECONDS.of(self._seconds)
        yield REQUESTS_IN_FLIGHT.of({(): self.in_flight})


def _served(scope: Scope, headers: Headers) -> Served:
    chosen = headers.get(REQUEST_ID_KEY, "")
    # gRPC metadata is ASCII only; any other id is replaced, as in every service.
    metadata = {REQUEST_ID_KEY: chosen} if chosen.isascii() else {}
    call = open_call(scope["path"], metadata, 0.0, "")
    return Served(scope["method"], scope["path"], call.request_id, call.traced)


def _as_trillium_error(error: Exception) -> TrilliumError:
    match error:
        case TrilliumError():
            return error
        case TimeoutError():
            return DeadlineExceeded("the deadline passed before there was an answer")
        case _:
            return InternalError("internal error; the gateway's log has the details")


async def _failed(
    error: Exception, served: Served, started: float, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the problem, unless the response has started, and log the error."""
    raised = _as_trillium_error(error)
    if not served.status:
        await _answer(raised, served, scope, receive, send)
    _log_failure(served, started, raised, error)


async def _answer(
    raised: TrilliumError, served: Served, scope: Scope, receive: Receive, send: Send
) -> None:
    answer = answer_of(raised, served.request_id, path=served.path)
    response = problem_response(answer.content, answer.status, answer.headers)
    await response(scope, receive, send)


def _add_header(message: MutableMapping[str, Any], name: str, value: str) -> None:
    message["headers"] = [*message.get("headers", ()), (name.encode(), value.encode())]


def _log_failure(served: Served, started: float, raised: TrilliumError, error: Exception) -> None:
    outcome = f"{raised.code.name}/{raised.reason}: {raised.message}"
    is_defect = raised is not error and isinstance(raised, InternalError)
    level = logging.ERROR if is_defect else logging.INFO
    _log(served, started, level, outcome, error=error if is_defect else None, upstream=raised)


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
