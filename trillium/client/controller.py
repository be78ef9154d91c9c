"""The clients of a controller, blocking and asyncio: deployments, runs, models and datasets.

Both have the methods that `trillium.client.controller_calls` describes, with the same arguments.
Names may be given with or without their prefix ("a1" is "deployments/a1"). Errors are those of
`trillium.errors`: as the controller raised them, or Unreachable, DeadlineExceeded, Cancelled or
RemoteError for a connection that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from functools import wraps
from itertools import chain
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeVar

import grpc

from trillium.client import wire
from trillium.client.controller_calls import ControllerCalls
from trillium.client.credentials import access_of
from trillium.client.described import Stream, Unary
from trillium.client.loops import LoopChannel
from trillium.rpc.channels import sync_client_channel
from trillium.server.config import address as checked_address

DEFAULT_ADDRESS = "127.0.0.1:50052"
P = ParamSpec("P")
T = TypeVar("T")


def _unary(
    describe: Callable[Concatenate[ControllerCalls, P], Unary[T]],
) -> Callable[Concatenate[ControllerClient, P], T]:
    @wraps(describe)
    def call(self: ControllerClient, /, *args: P.args, **options: P.kwargs) -> T:
        return self._ask(describe(self._calls, *args, **options))

    return call


def _stream(
    describe: Callable[Concatenate[ControllerCalls, P], Stream[T]],
) -> Callable[Concatenate[ControllerClient, P], Generator[T]]:
    @wraps(describe)
    def call(self: ControllerClient, /, *args: P.args, **options: P.kwargs) -> Generator[T]:
        stream = describe(self._calls, *args, **options)
        return self._pages(stream) if stream.is_paged else self._answers(stream)

    return call


def _async_unary(
    describe: Callable[Concatenate[ControllerCalls, P], Unary[T]],
) -> Callable[Concatenate[AsyncControllerClient, P], Coroutine[Any, Any, T]]:
    @wraps(describe)
    async def call(self: AsyncControllerClient, /, *args: P.args, **options: P.kwargs) -> T:
        return await self._ask(describe(self._calls, *args, **options))

    return call


def _async_stream(
    describe: Callable[Concatenate[ControllerCalls, P], Stream[T]],
) -> Callable[Concatenate[AsyncControllerClient, P], AsyncGenerator[T]]:
    @wraps(describe)
    async def call(
        self: AsyncControllerClient, /, *args: P.args, **options: P.kwargs
    ) -> AsyncGenerator[T]:
        stream = describe(self._calls, *args, **options)
        items = self._pages(stream) if stream.is_paged else self._answers(stream)
        async with aclosing(items):
            async for item in items:
                yield item

    return call


def _async_upload(
    upload: Callable[Concatenate[ControllerClient, P], T],
) -> Callable[Concatenate[AsyncControllerClient, P], Coroutine[Any, Any, T]]:
    # grpc.aio reports INTERNAL in place of the status of a server that answers before it has
    # received everything. A blocking call in a thread reports the status, reads the file without
    # blocking the loop, and ends when its channel is closed, as a cancelled task does here.
    @wraps(upload)
    async def call(self: AsyncControllerClient, /, *args: P.args, **options: P.kwargs) -> T:
        with ControllerClient(
            self._address, timeout_s=self._timeout_s, token=self._token, tls_ca=self._tls_ca
        ) as client:
            return await asyncio.to_thread(upload, client, *args, **options)

    return call


class _Connection:
    """The address and time limit of either client."""

    def __init__(self, address: str, timeout_s: float | None, token: str, tls_ca: str) -> None:
        self._address = checked_address(address)
        self._token, self._tls_ca = token, tls_ca
        self._access = access_of(token, tls_ca)
        self._timeout_s = None if timeout_s is None else wire.time_limit(timeout_s)

    def __reduce__(self) -> NoReturn:
        raise wire.not_pickled(self)

    @property
    def address(self) -> str:
        """The address of the controller."""
        return self._address

    def _error(self, failure: Any, limit: float | None) -> Exception:
        return wire.error_of(failure, self._address, limit or 0.0)


class ControllerClient(_Connection):
    """A blocking client. Safe to share between threads; `close` it, or use it in a `with`."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float | None = None,
        token: str = "",
        tls_ca: str = "",
    ) -> None:
        """Connects at the first call, and again whenever the connection broke.

        Args:
            address: `host:port` or `unix:/path`, else ValueError.
            timeout_s: time limit of every call in seconds. None gives 10 s to a query, 120 s to
                a command and an hour to a run; a watch then has no limit. The controller goes on
                with a command or a run after the limit: a deadline undoes nothing.
            token: identifies the caller; without one, it is what the file has that the
                variable TRILLIUM_TOKEN_FILE names, if that is set.
            tls_ca: file with the certificates of the authorities to trust, in PEM, or "system"
                for those that gRPC comes with: calls then go over TLS. Without it, it is what
                TRILLIUM_TLS_CA names; without both, calls go in plaintext.
        """
        super().__init__(address, timeout_s, token, tls_ca)
        self._channel = sync_client_channel(self._address, self._access)
        self._calls = ControllerCalls(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with Cancelled."""
        self._channel.close()

    create = _unary(ControllerCalls.create)
    load = _unary(ControllerCalls.load)
    update = _unary(ControllerCalls.update)
    unload = _unary(ControllerCalls.unload)
    terminate = _unary(ControllerCalls.terminate)
    deployment = _unary(ControllerCalls.deployment)
    deployments = _stream(ControllerCalls.deployments)
    watch_deployments = _stream(ControllerCalls.watch_deployments)
    events = _stream(ControllerCalls.events)
    servers = _unary(ControllerCalls.servers)
    apply_ensemble = _unary(ControllerCalls.apply_ensemble)
    send_application = _unary(ControllerCalls.send_application)
    plan_ensemble = _unary(ControllerCalls.plan_ensemble)
    roll_back_ensemble = _unary(ControllerCalls.roll_back_ensemble)
    scale_ensemble = _unary(ControllerCalls.scale_ensemble)
    split_ensemble = _unary(ControllerCalls.split_ensemble)
    load_ensemble = _unary(ControllerCalls.load_ensemble)
    unload_ensemble = _unary(ControllerCalls.unload_ensemble)
    delete_ensemble = _unary(ControllerCalls.delete_ensemble)
    get_ensemble = _unary(ControllerCalls.get_ensemble)
    ensemble_revisions = _unary(ControllerCalls.ensemble_revisions)
    ensemble_revision = _unary(ControllerCalls.ensemble_revision)
    ensembles = _stream(ControllerCalls.ensembles)
    run = _unary(ControllerCalls.run)
    get_run = _unary(ControllerCalls.get_run)
    runs = _stream(ControllerCalls.runs)
    watch_run = _stream(ControllerCalls.watch_run)
    cancel_run = _unary(ControllerCalls.cancel_run)
    delete_run = _unary(ControllerCalls.delete_run)
    results = _stream(ControllerCalls.results)
    models = _stream(ControllerCalls.models)
    refused_models = _unary(ControllerCalls.refused_models)
    datasets = _stream(ControllerCalls.datasets)
    register_model = _unary(ControllerCalls.register_model)
    register_dataset = _unary(ControllerCalls.register_dataset)
    delete_model = _unary(ControllerCalls.delete_model)
    delete_dataset = _unary(ControllerCalls.delete_dataset)
    is_serving = _unary(ControllerCalls.is_serving)

    def _ask(self, call: Unary[T]) -> T:
        limit, request = self._timeout_s or call.timeout_s, call.request
        if call.is_upload:
            # gRPC hides what its request iterator raises, so an unreadable file has to fail here.
            request = chain([next(request)], request)
        try:
            return call.read(call.method(request, timeout=limit))
        except grpc.RpcError as failure:
            raise self._error(failure, limit) from failure

    def _pages(self, stream: Stream[T]) -> Generator[T]:
        while True:
            page: Any = self._ask(Unary(stream.method, stream.request))
            yield from stream.read(page)
            if not page.next_page_token:
                return
            stream.request.page_token = page.next_page_token

    def _answers(self, stream: Stream[T]) -> Generator[T]:
        call = stream.method(stream.request, timeout=self._timeout_s)
        try:
            for answer in call:
                yield from stream.read(answer)
        except grpc.RpcError as failure:
            raise self._error(failure, self._timeout_s) from failure
        finally:
            call.cancel()


class AsyncControllerClient(_Connection):
    """`ControllerClient` for asyncio: the same methods, as coroutines and asynchronous generators.

    `close` it, or use it in an `async with`. Cancelling the task of a call withdraws the call. It
    may be made anywhere and serve one event loop after another, but only one at a time.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float | None = None,
        token: str = "",
        tls_ca: str = "",
    ) -> None:
        """As `ControllerClient`."""
        super().__init__(address, timeout_s, token, tls_ca)
        self._channel = LoopChannel(self, self._address, self._access, ControllerCalls)

    @property
    def _calls(self) -> ControllerCalls:
        return self._channel.stubs()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with Cancelled."""
        await self._channel.close()

    create = _async_unary(ControllerCalls.create)
    load = _async_unary(ControllerCalls.load)
    update = _async_unary(ControllerCalls.update)
    unload = _async_unary(ControllerCalls.unload)
    terminate = _async_unary(ControllerCalls.terminate)
    deployment = _async_unary(ControllerCalls.deployment)
    deployments = _async_stream(ControllerCalls.deployments)
    watch_deployments = _async_stream(ControllerCalls.watch_deployments)
    events = _async_stream(ControllerCalls.events)
    servers = _async_unary(ControllerCalls.servers)
    apply_ensemble = _async_unary(ControllerCalls.apply_ensemble)
    send_application = _async_unary(ControllerCalls.send_application)
    plan_ensemble = _async_unary(ControllerCalls.plan_ensemble)
    roll_back_ensemble = _async_unary(ControllerCalls.roll_back_ensemble)
    scale_ensemble = _async_unary(ControllerCalls.scale_ensemble)
    split_ensemble = _async_unary(ControllerCalls.split_ensemble)
    load_ensemble = _async_unary(ControllerCalls.load_ensemble)
    unload_ensemble = _async_unary(ControllerCalls.unload_ensemble)
    delete_ensemble = _async_unary(ControllerCalls.delete_ensemble)
    get_ensemble = _async_unary(ControllerCalls.get_ensemble)
    ensemble_revisions = _async_unary(ControllerCalls.ensemble_revisions)
    ensemble_revision = _async_unary(ControllerCalls.ensemble_revision)
    ensembles = _async_stream(ControllerCalls.ensembles)
    run = _async_unary(ControllerCalls.run)
    get_run = _async_unary(ControllerCalls.get_run)
    runs = _async_stream(ControllerCalls.runs)
    watch_run = _async_stream(ControllerCalls.watch_run)
    cancel_run = _async_unary(ControllerCalls.cancel_run)
    delete_run = _async_unary(ControllerCalls.delete_run)
    results = _async_stream(ControllerCalls.results)
    models = _async_stream(ControllerCalls.models)
    refused_models = _async_unary(ControllerCalls.refused_models)
    datasets = _async_stream(ControllerCalls.datasets)
    register_model = _async_upload(ControllerClient.register_model)
    register_dataset = _async_upload(ControllerClient.register_dataset)
    delete_model = _async_unary(ControllerCalls.delete_model)
    delete_dataset = _async_unary(ControllerCalls.delete_dataset)
    is_serving = _async_unary(ControllerCalls.is_serving)

    async def _ask(self, call: Unary[T]) -> T:
        limit = self._timeout_s or call.timeout_s
        try:
            return call.read(await call.method(call.request, timeout=limit))
        except grpc.RpcError as failure:
            raise self._error(failure, limit) from failure

    async def _pages(self, stream: Stream[T]) -> AsyncGenerator[T]:
        while True:
            page: Any = await self._ask(Unary(stream.method, stream.request))
            for item in stream.read(page):
                yield item
            if not page.next_page_token:
                return
            stream.request.page_token = page.next_page_token

    async def _answers(self, stream: Stream[T]) -> AsyncGenerator[T]:
        call = stream.method(stream.request, timeout=self._timeout_s)
        try:
            async for answer in call:
                for item in stream.read(answer):
                    yield item
        except grpc.RpcError as failure:
            raise self._error(failure, self._timeout_s) from failure
        finally:
            call.cancel()
