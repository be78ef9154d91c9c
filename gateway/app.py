"""Composes a gateway: for `python -m gateway`, and for tests in-process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from trillium.client.credentials import link_access
from trillium.rpc.channels import Access
from trillium.server.doors import check_reach
from trillium.server.measured import measured
from trillium.server.process import StartFailed
from trillium.server.tasks import background
from trillium.server.tls import Certificate, certificate_of

from .backend import Aggregator, Controller
from .callers import Callers
from .catalog import CatalogRoutes
from .config import GatewayConfig
from .deployments import DeploymentRoutes
from .docs import Documents
from .edge import Edge
from .ensembles import Ensembles
from .hosts import Hosts
from .inference_router import InferenceRouter
from .operation import Operation
from .protocol import Protocol
from .proxy import Proxy
from .reading import Reader
from .revisions import RevisionRoutes
from .routing import Routes
from .runs import RunRoutes
from .scoring import Scoring
from .v2 import OpenInference

KEEP_ALIVE_S = 75
"""Time that an idle connection stays open: a little longer than most clients keep it."""
BACKLOG = 1024
RENEWAL_S = 5.0
"""Pause between looks at the files of the certificate."""


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that serves."""

    address: str
    """Address that it listens on, with the actual port."""
    edge: Edge
    serving: asyncio.Task[None]
    """The HTTP server. It ends before the context is left only if it failed."""


@asynccontextmanager
async def running_gateway(config: GatewayConfig) -> AsyncIterator[RunningGateway]:
    """Start a gateway; leaving the context drains and stops it.

    The aggregator and the controller may start later. Raises StartFailed.
    """
    check_reach(config, config.listen)
    certificate = certificate_of(config)
    draining = asyncio.Event()
    async with AsyncExitStack() as stack:
        aggregator_access, controller_access = _accesses(config)
        aggregator = await stack.enter_async_context(
            Aggregator(config.aggregator, aggregator_access)
        )
        controller = await stack.enter_async_context(
            Controller(config.controller, controller_access)
        )
        hosts = Hosts(config.listen, config.allowed_hosts)
        callers = Callers(local_users=config.local_users == "yes")
        reader = Reader(config, callers)
        routes = Routes(operations(aggregator, controller, draining, config.sample), reader)
        edge = Edge(routes, hosts=hosts, max_requests=config.max_requests)
        listener = stack.enter_context(_listening(config.listen))
        address = _address(config.listen, listener)
        callers.opened(address)
        await stack.enter_async_context(measured(config, edge.figures))
        server = _Server(_settings(edge, config, certificate))
        if certificate is not None:
            await stack.enter_async_context(
                background("renewal of the certificate", _renewal(server.config, certificate))
            )
        serving = await stack.enter_async_context(
            background("HTTP server", server.serve([listener]))
        )
        try:
            await server.started_up.wait()
            yield RunningGateway(address, edge, serving)
        finally:
            draining.set()
            server.should_exit = True
            await serving


def _accesses(config: GatewayConfig) -> tuple[Access, Access]:
    """How the aggregator and the controller are reached. Raises StartFailed."""
    try:
        return link_access("", config.aggregator_tls_ca), link_access("", config.controller_tls_ca)
    except ValueError as error:
        text = "check --aggregator-tls-ca and --controller-tls-ca"
        raise StartFailed(f"{error}; {text}") from error


def operations(
    aggregator: Aggregator,
    controller: Controller,
    draining: asyncio.Event,
    sample: Sequence[float] = (),
) -> Sequence[Operation]:
    """All operations of a gateway; `sample` is a row for models that carry none."""
    scoring = Scoring(aggregator)
    parts = (
        Ensembles(aggregator, scoring),
        RevisionRoutes(controller),
        DeploymentRoutes(controller, draining),
        RunRoutes(controller, draining),
        CatalogRoutes(controller),
        OpenInference(aggregator),
        Proxy(aggregator, scoring, sample=sample),
        InferenceRouter(controller),
    )
    served = [operation for part in parts for operation in part.operations()]
    return [*served, *Documents(served).operations()]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which `__main__` installs."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.started_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _renewal(settings: uvicorn.Config, certificate: Certificate) -> None:
    """Have new connections get the certificate that is in the files."""
    while True:
        await asyncio.sleep(RENEWAL_S)
        if certificate.renewed() and settings.ssl is not None:
            settings.ssl.load_cert_chain(certificate.certificate, certificate.key)


def _settings(edge: Edge, config: GatewayConfig, certificate: Certificate | None) -> uvicorn.Config:
    # Only its warnings and errors are logged, next to the gateway's own lines.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Config(
        edge,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(config.drain_s),
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    """A socket that listens on `address`. Raises StartFailed."""
    path = address.removeprefix("unix:")
    is_path = path != address
    try:
        if is_path:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(path)
            listener.listen(BACKLOG)
        else:
            host, _, port = address.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            where = (host.strip("[]"), int(port))
            listener = socket.create_server(where, family=family, backlog=BACKLOG)
            # Connections inherit it. Without it, on asyncio's own loop, a body waits 40 ms for the
            # caller's kernel to acknowledge the head of the response.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        text = f"cannot listen on {address}: {error.strerror or error}"
        raise StartFailed(
            f"{text}; choose another --listen or stop the program that uses it"
        ) from error
    with listener:
        yield listener
    if is_path:
        Path(path).unlink(missing_ok=True)


def _address(listen: str, listener: socket.socket) -> str:
    if listen.startswith("unix:"):
        return listen
    return f"{listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
