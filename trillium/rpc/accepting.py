"""A grpc.aio server that requests many calls at once.

grpc.aio requests one call from gRPC's core and the next one only some five turns of the event loop
and a change of threads after that one has arrived. Calls that are there at once so reach their
handlers one by one, and batches leave between two of them. This server has up to `ACCEPTS` calls of
each method requested, so that they arrive together: with 64 callers a batch has 50 to 60 requests
instead of 5, and a request takes less than half the CPU.

It needs names of grpcio that are not public. Where one is missing or takes other parameters,
`new_server` logs that once and serves as grpcio does. Tried with grpcio 1.84.0, 1.84.2, 1.85.0,
1.85.1 and 1.85.3, which have them all, and with 1.76.0, 1.80.0 and 1.83.2, which lack some.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol

import grpc
from grpc import aio

log = logging.getLogger(__name__)

ACCEPTS = 64
"""Calls of one method that are requested at once. With 64 callers, 8 to 64 do equally well; with
256, batches have 100 requests if 64 are, and 60 if 16 are."""
RESERVED_PATHS, RESERVED_CALLS = ("/grpc.health.v1.Health/",), 64
"""Room beyond the limit of calls for whoever asks whether a server still serves."""
PAUSE_S = 1.0
"""How long a method is not accepted by a task that has failed."""
_END_S = 1.0
"""How long tasks may take to end that nothing holds up after a stop."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_cygrpc = _module("grpc._cython.cygrpc")
_Stock: Any = getattr(_cygrpc, "AioServer", object)
_RequestCallError: Any = getattr(_cygrpc, "_RequestCallError", Exception)

PRIVATE_NAMES: dict[str, tuple[str, ...] | None] = {
    "AioServer.is_running": ("self",),
    "AioServer._make_request_call_future": ("self", "method_bytes"),
    "AioServer._request_registered_call": ("self", "method"),
    "_RequestCallError": None,
    "_handle_rpc": (
        "method_name", "method_resolver", "interceptors", "rpc_state", "loop",
        "concurrency_exceeded",
    ),
    "_schedule_rpc_coro": ("rpc_coro", "rpc_state", "loop", "method_name"),
}  # fmt: skip
"""What this needs of grpcio's Cython module, and the parameters of what is called."""


def unusable_names() -> list[str]:
    """Those of `PRIVATE_NAMES` that the installed grpcio lacks or has with other parameters."""
    return [name for name, parameters in PRIVATE_NAMES.items() if not _is_usable(name, parameters)]


def _is_usable(name: str, parameters: tuple[str, ...] | None) -> bool:
    found = _cygrpc
    for part in name.split("."):
        found = getattr(found, part, None)
    if parameters is None:
        return found is not None
    code = getattr(found, "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount] == parameters


@cache
def _warn_of(missing: tuple[str, ...]) -> None:
    """Log that this grpcio serves calls one by one; once, as the answer is kept."""
    log.warning(
        "calls are accepted one by one, which costs throughput: this grpcio lacks private names",
        extra={"missing": missing},
    )


class AcceptingServer(Protocol):
    """What a front uses of a grpc.aio server."""

    def add_insecure_port(self, address: str) -> int:
        """Listen there once started; answers the port. Raises RuntimeError."""
        ...

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """The same with TLS."""
        ...

    async def start(self) -> None:
        """Serve."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Accept no new calls, wait `grace` seconds for those in flight, then cancel them."""
        ...


def new_server(
    services: Mapping[str, Mapping[str, Any]],
    options: Sequence[tuple[str, int]],
    max_concurrent_calls: int,
) -> AcceptingServer:
    """A server of these grpc method handlers, by the full name of the service and the method's.

    Calls beyond `max_concurrent_calls` are answered with RESOURCE_EXHAUSTED.
    """
    missing = unusable_names()
    if not missing:
        with _core_is_ours():
            server = aio.server(options=options)
        core = getattr(server, "_server", None)
        if isinstance(core, _Core):
            return _ManyAccepts(server, core, services, max_concurrent_calls)
        missing = ["aio.Server._server"]
    _warn_of(tuple(missing))
    server = aio.server(options=options, maximum_concurrent_rpcs=max_concurrent_calls)
    for name, methods in services.items():
        generic = grpc.method_handlers_generic_handler(name, dict(methods))
        server.add_generic_rpc_handlers((generic,))
    return server


class _ManyAccepts:
    """grpc.aio's server around a `_Core`."""

    def __init__(
        self,
        server: aio.Server,
        core: _Core,
        services: Mapping[str, Mapping[str, Any]],
        max_concurrent_calls: int,
    ) -> None:
        self._server, self._core = server, core
        handlers = {
            f"/{service}/{method}": handler
            for service, methods in services.items()
            for method, handler in methods.items()
        }
        core.prepare(handlers, max_concurrent_calls)
        for service, methods in services.items():
            server.add_registered_method_handlers(service, dict(methods))

    def add_insecure_port(self, address: str) -> int:
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        await self._server.stop(grace)
        await self._core.ended()


@contextmanager
def _core_is_ours() -> Iterator[None]:
    """Have grpc.aio make a `_Core` where it would make its own: no argument of it does that.

    Servers that other threads make at this moment serve as grpcio does, since nobody prepares them.
    """
    _cygrpc.AioServer = _Core
    try:
        yield
    finally:
        _cygrpc.AioServer = _Stock


class _Resolver:
    """Answers one method's handler to grpcio, which looks for it once more."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def resolve_handler(self, details: Any) -> Any:
        return self._handler


class _Core(_Stock):  # type: ignore[misc]
    """grpcio's server with tasks of its own that accept the calls of registered methods.

    Only calls of methods that nobody has registered are left to grpcio's own loop, which answers
    UNIMPLEMENTED. A method gets one more task with each call, up to `ACCEPTS`: a task takes 2 KB,
    and most methods are hardly ever called.
    """

    _resolvers: Mapping[str, _Resolver] | None = None

    def prepare(self, handlers: Mapping[str, Any], max_concurrent_calls: int) -> None:
        """Set what is served, by path; called before `start`."""
        self._resolvers = {path: _Resolver(handler) for path, handler in handlers.items()}
        self._max_concurrent_calls = max_concurrent_calls
        self._accepts: Counter[str] = Counter()
        self._accepting: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._refusals: set[asyncio.Task[None]] = set()
        """Of calls beyond the limit, while they are answered; they do not count."""

    async def ended(self) -> None:
        """Wait after a stop until no task is left, for `_END_S` at most."""
        tasks = self._accepting | self._calls | self._refusals
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)

    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:
        """grpcio's loop asks for this once for each method, and then waits for it."""
        if method_bytes is None or self._resolvers is None:
            return super()._make_request_call_future(method_bytes)
        self._accept_one_more(method_bytes.decode())
        return asyncio.get_running_loop().create_future()  # Never done: the calls go to our tasks.

    def _accept_one_more(self, path: str) -> None:
        if self._accepts[path] < ACCEPTS:
            self._accepts[path] += 1
            task = asyncio.get_running_loop().create_task(self._accept(path))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _accept(self, path: str) -> None:
        """Accept calls until the server stops; goes on after whatever goes wrong with one."""
        method = path.encode()
        while self.is_running():
            try:
                state = await self._request_registered_call(method)
                self._accept_one_more(path)
                self._handle(path, state)
            except _RequestCallError:
                continue  # The server stops, or the call was gone before it arrived.
            except Exception:
                log.exception("a call could not be accepted", extra={"method": path})
                await asyncio.sleep(PAUSE_S)

    def _handle(self, path: str, state: Any) -> None:
        """Start the task that grpcio would start for a call: its handler, or RESOURCE_EXHAUSTED."""
        assert self._resolvers is not None
        loop = asyncio.get_running_loop()
        room = RESERVED_CALLS if path.startswith(RESERVED_PATHS) else 0
        is_full = len(self._calls) >= self._max_concurrent_calls + room
        handling = _cygrpc._handle_rpc(path, self._resolvers[path], (), state, loop, is_full)
        task = loop.create_task(_cygrpc._schedule_rpc_coro(handling, state, loop, path))
        tasks = self._refusals if is_full else self._calls
        tasks.add(task)
        task.add_done_callback(partial(_call_ended, tasks))


def _call_ended(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the task of a call failed", exc_info=error)
