"""Handlers of messages as endpoints of bytes: the one wrapper round every handler.

It asks who calls and whether they may, parses and serialises, refuses what is too large or no
message, counts and times the calls, turns whatever goes wrong into a google.rpc.Status, and writes
the log. It knows no grpc types, so the front that carries the bytes can be another one.

What is logged: calls that change something, that fail, and whose caller chose the request id (key
"x-request-id"), at INFO; all others at DEBUG; defects at ERROR with their stack.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeAlias

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from trillium.access.door import Door
from trillium.access.roles import CHANGES
from trillium.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MalformedMessage,
    TrilliumError,
)
from trillium.rpc.budget import Budget, StreamShare
from trillium.rpc.call import Call, CallFailed
from trillium.rpc.counting import has_more_entries
from trillium.rpc.status import to_status
from trillium.server.figures import SECONDS, Distribution, Family, Measure
from trillium.server.logs import REQUEST_ID

Handler: TypeAlias = Callable[[Any, Call], Any]
"""Of messages: awaitable, or an asynchronous generator if the RPC streams its responses."""
UnaryUnary: TypeAlias = Callable[[bytes, Call], Awaitable[bytes]]
UnaryStream: TypeAlias = Callable[[bytes, Call], AsyncGenerator[bytes]]
StreamUnary: TypeAlias = Callable[[AsyncIterator[bytes], Call], Awaitable[bytes]]
StreamStream: TypeAlias = Callable[[AsyncIterator[bytes], Call], AsyncGenerator[bytes]]

log = logging.getLogger("trillium.calls")

CALL_SECONDS = Measure(
    "rpc_server_call_duration_seconds",
    "histogram",
    "How long do calls take, and how do they end? Streams are counted when they end.",
    ("rpc_method", "rpc_response_status_code"),
)
CALLS_IN_FLIGHT = Measure("trillium_calls_in_flight", "gauge", "How many calls are being served?")
BYTES_IN_FLIGHT = Measure(
    "trillium_request_bytes_in_flight", "gauge", "How many bytes of requests are being served?"
)
MEASURES = (CALL_SECONDS, CALLS_IN_FLIGHT, BYTES_IN_FLIGHT)
COUNTED_BYTES = 2**20
"""Smaller messages are parsed at once: what they hold is counted in no time afterwards."""


class MethodKind(Enum):
    """Which side of a method streams: (requests, responses)."""

    UNARY_UNARY = (False, False)
    UNARY_STREAM = (False, True)
    STREAM_UNARY = (True, False)
    STREAM_STREAM = (True, True)


@dataclass(frozen=True, slots=True)
class RpcMethod:
    """One RPC of a service, its handler speaking messages."""

    name: str
    kind: MethodKind
    request_type: type[Message]
    handler: Handler


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service: its full name and its methods."""

    name: str
    methods: Sequence[RpcMethod]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes."""

    max_message_bytes: int = 16 * 1024 * 1024
    """A larger request message is answered with INVALID_ARGUMENT and its size. From
    `HARD_FACTOR` times this on, the transport refuses it unread with RESOURCE_EXHAUSTED."""
    max_bytes_in_flight: int = 128 * 1024 * 1024
    """Bytes of requests that are served at once. Further calls are answered with
    RESOURCE_EXHAUSTED, and further messages of streams wait."""
    max_concurrent_calls: int = 4096
    """Further calls are answered with RESOURCE_EXHAUSTED."""
    max_calls_of_connection: int = 1024
    """What one connection asks for at once; further calls of it wait at the caller's."""
    max_entries: int = 2**17
    """A request message above `COUNTED_BYTES` with more entries, as `trillium.rpc.counting` counts
    them, is answered with INVALID_ARGUMENT before it is parsed. Twice the most rows of a request.
    """

    HARD_FACTOR = 1.25


def service_of(
    descriptor: ServiceDescriptor, handlers: Mapping[str, Handler], *, foreign: bool = False
) -> Service:
    """The service that `descriptor` describes; `handlers` has one for each of its RPCs.

    What a handler takes and returns follows from the RPC: a message, or an asynchronous iterator
    of them. Raises ValueError for a handler without an RPC, and for an RPC without a handler unless
    the service is `foreign`: a later version of its package may describe more, which is
    UNIMPLEMENTED here.
    """
    rpcs = {rpc.name: rpc for rpc in descriptor.methods if rpc.name in handlers or not foreign}
    if unmatched := sorted(rpcs.keys() ^ handlers.keys()):
        raise ValueError(f"{descriptor.full_name}: {', '.join(unmatched)}")
    methods = [
        RpcMethod(
            name,
            MethodKind((rpc.client_streaming, rpc.server_streaming)),
            GetMessageClass(rpc.input_type),
            handlers[name],
        )
        for name, rpc in rpcs.items()
    ]
    return Service(descriptor.full_name, methods)


class Endpoints:
    """Wraps the methods of one server and counts the calls that are in flight."""

    def __init__(self, limits: Limits, door: Door) -> None:
        self._limits = limits
        self._door = door
        self._budget = Budget(limits.max_bytes_in_flight)
        self._in_flight = 0
        self._seconds: dict[tuple[str, str], Distribution] = {}
        """By path and code."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Calls that a handler is working on."""
        return self._in_flight

    def figures(self) -> Iterable[Family]:
        """What was counted so far."""
        yield CALL_SECONDS.of(
            {(path.removeprefix("/"), code): each for (path, code), each in self._seconds.items()}
        )
        yield CALLS_IN_FLIGHT.of({(): self._in_flight})
        yield BYTES_IN_FLIGHT.of({(): self._budget.held_bytes})

    def _count(self, call: Call, code: str, started: float) -> None:
        key = (call.method, code)
        distribution = self._seconds.get(key)
        if distribution is None:
            distribution = self._seconds[key] = Distribution(SECONDS)
        distribution.add(time.monotonic() - started)

    async def until_idle(self) -> None:
        """Wait until no handler is working."""
        await self._idle.wait()

    def of(self, method: RpcMethod) -> Any:
        """The endpoint of `method`: UnaryUnary, UnaryStream, StreamUnary or StreamStream."""
        wrap = {
            MethodKind.UNARY_UNARY: self._unary_unary,
            MethodKind.UNARY_STREAM: self._unary_stream,
            MethodKind.STREAM_UNARY: self._stream_unary,
            MethodKind.STREAM_STREAM: self._stream_stream,
        }
        return wrap[method.kind](method)

    def _unary_unary(self, method: RpcMethod) -> UnaryUnary:
        async def endpoint(raw: bytes, call: Call) -> bytes:
            with self._guarded(call), self._held(len(raw)):
                request = self._parse(method, raw)
                response: Message = await method.handler(request, call)
                return response.SerializeToString()

        return endpoint

    def _unary_stream(self, method: RpcMethod) -> UnaryStream:
        async def endpoint(raw: bytes, call: Call) -> AsyncGenerator[bytes]:
            with self._guarded(call), self._held(len(raw)):
                request = self._parse(method, raw)
                async with aclosing(method.handler(request, call)) as responses:
                    async for response in responses:
                        yield response.SerializeToString()

        return endpoint

    def _stream_unary(self, method: RpcMethod) -> StreamUnary:
        async def endpoint(raws: AsyncIterator[bytes], call: Call) -> bytes:
            with self._guarded(call), closing(StreamShare(self._budget)) as share:
                requests = self._parse_all(method, raws, share, keeps=False)
                response: Message = await method.handler(requests, call)
                return response.SerializeToString()

        return endpoint

    def _stream_stream(self, method: RpcMethod) -> StreamStream:
        async def endpoint(raws: AsyncIterator[bytes], call: Call) -> AsyncGenerator[bytes]:
            with self._guarded(call), closing(StreamShare(self._budget)) as share:
                requests = self._parse_all(method, raws, share, keeps=True)
                async with aclosing(method.handler(requests, call)) as responses:
                    async for response in responses:
                        yield response.SerializeToString()
                        share.give_back_oldest()

        return endpoint

    async def _parse_all(
        self, method: RpcMethod, raws: AsyncIterator[bytes], share: StreamShare, *, keeps: bool
    ) -> AsyncIterator[Message]:
        """The messages of a stream. One that the handler `keeps` is held until its response;
        otherwise it is done with it when it asks for the next one."""
        source = aiter(raws)
        try:
            async for raw in source:
                if not keeps:
                    share.give_back_oldest()
                await share.take(len(raw))
                message = self._parse(method, raw)
                # Neither is to be kept until the next one comes.
                del raw
                yield message
                del message
        finally:
            # Left where it is, grpc.aio's would keep its last message.
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    def _parse(self, method: RpcMethod, raw: bytes) -> Message:
        limits, kind = self._limits, method.request_type
        most = limits.max_message_bytes
        if len(raw) > most:
            raise InvalidRequest.of("message", f"has {len(raw)} bytes; at most {most} allowed")
        most = limits.max_entries
        if len(raw) > COUNTED_BYTES and has_more_entries(raw, kind.DESCRIPTOR, most):
            text = f"has more than {most} entries; send fewer rows, or all in one packed matrix"
            raise InvalidRequest.of("message", text)
        try:
            return kind.FromString(raw)
        except DecodeError as error:
            name = kind.DESCRIPTOR.full_name
            raise MalformedMessage(f"the request is not a {name} message") from error

    @contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Count the bytes of a request while it is served. Raises Overloaded."""
        self._budget.take(size)
        try:
            yield
        finally:
            self._budget.give_back(size)

    @contextmanager
    def _guarded(self, call: Call) -> Iterator[None]:
        """Admit a call, which then knows its principal, and see to its end."""
        started = time.monotonic()
        token = REQUEST_ID.set(call.request_id)
        self._in_flight += 1
        self._idle.clear()
        code = "OK"
        try:
            call.principal = self._door.admit(call.method, call.credentials)
            yield
        except TrilliumError as error:
            code = error.code.name
            _log(call, started, logging.INFO, f"{error.code.name}/{error.reason}: {error.message}")
            raise _forgotten(CallFailed(to_status(error, call.request_id))) from error
        except TimeoutError as error:
            late = DeadlineExceeded("the deadline passed before the work was done")
            code = late.code.name
            _log(call, started, logging.INFO, late.code.name)
            raise _forgotten(CallFailed(to_status(late, call.request_id))) from error
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            _log(call, started, logging.DEBUG, code)
            raise
        except Exception as error:
            code = "INTERNAL"
            _log(call, started, logging.ERROR, code, exc_info=True)
            raise _forgotten(CallFailed(to_status(InternalError(), call.request_id))) from error
        else:
            is_told = call.traced or call.method in CHANGES
            _log(call, started, logging.INFO if is_told else logging.DEBUG, "OK")
        finally:
            self._count(call, code, started)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
            _reset(token)


def _forgotten(failed: CallFailed) -> CallFailed:
    """`failed`, which keeps nothing of its request once its task has ended.

    grpc.aio keeps the exception of an abort in a cycle, and with it all the frames that it came
    through: what they hold, the request above all, would stay until a garbage collection.
    """
    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(partial(_forget, failed))
    return failed


def _forget(failed: CallFailed, _: object) -> None:
    failed.__cause__ = failed.__context__ = None
    # The frames of its own way only: one of its cause may be suspended, and clearing would end it.
    traceback.clear_frames(failed.__traceback__)


def _reset(token: Any) -> None:
    try:
        REQUEST_ID.reset(token)
    except ValueError:
        # A generator that is closed from another task ends in that task's context; there the
        # variable was never set.
        return


def _log(call: Call, started: float, level: int, outcome: str, *, exc_info: bool = False) -> None:
    if log.isEnabledFor(level):
        spent_ms = round((time.monotonic() - started) * 1000, 3)
        facts = {"method": call.method, "peer": call.peer, "outcome": outcome, "ms": spent_ms}
        if call.principal is not None:
            facts["principal"] = call.principal.name
        log.log(level, "call", extra=facts, exc_info=exc_info)
