"""Puts a gateway together: what `python -m gateway` runs and what tests run in-process."""

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

from gateway.backend import Aggregator, Controller
from gateway.catalog import Catalog
from gateway.config import GatewayConfig
from gateway.deployments import Deployments
from gateway.docs import Documents
from gateway.edge import Edge
from gateway.ensembles import Ensembles
from gateway.hosts import Hosts
from gateway.inference_router import InferenceRouter
from gateway.operation import Operation
from gateway.protocol import Protocol
from gateway.proxy import Proxy
from gateway.reading import Reader
from gateway.routing import Routes
from gateway.runs import Runs
from gateway.scoring import Scoring
from gateway.v2 import OpenInference
from trillium.process import StartFailed

KEEP_ALIVE_S = 75
"""How long an idle connection is kept, a little longer than most clients and proxies keep it."""
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that is up."""

    address: str
    """Where it listens, with the port that was really taken."""
    edge: Edge


@asynccontextmanager
async def running_gateway(config: GatewayConfig) -> AsyncIterator[RunningGateway]:
    """Start a gateway; leaving the context drains and stops it.

    What is behind it need not be there yet. Raises StartFailed.
    """
    draining = asyncio.Event()
    async with AsyncExitStack() as stack:
        aggregator = await stack.enter_async_context(Aggregator(config.aggregator))
        controller = await stack.enter_async_context(Controller(config.controller))
        hosts = Hosts(config.listen, config.allowed_hosts)
        routes = Routes(operations(aggregator, controller, draining), Reader(config))
        edge = Edge(routes, hosts=hosts, max_requests=config.max_requests)
        listener = stack.enter_context(_listening(config.listen))
        server = _Server(_settings(edge, config.drain_s))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await server.started_up.wait()
            yield RunningGateway(_address(config.listen, listener), edge)
        finally:
            draining.set()
            server.should_exit = True
            await serving


def operations(
    aggregator: Aggregator, controller: Controller, draining: asyncio.Event
) -> Sequence[Operation]:
    """Everything that a gateway serves."""
    scoring = Scoring(aggregator)
    parts = (
        Ensembles(aggregator, scoring),
        Deployments(controller, draining),
        Runs(controller, draining),
        Catalog(controller),
        OpenInference(aggregator, scoring),
        Proxy(aggregator, scoring),
        InferenceRouter(controller),
    )
    served = [operation for part in parts for operation in part.operations()]
    return [*served, *Documents(served).operations()]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: `__main__` has those."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.started_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(edge: Edge, drain_s: float) -> uvicorn.Config:
    # Its own lines would stand between ours; what goes wrong in it is still told.
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
        timeout_graceful_shutdown=math.ceil(drain_s),
    )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    """A socket that listens there; StartFailed if it cannot be had."""
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
            # Connections have it from their listener. Else a body waits, on asyncio's own loop,
            # until the caller's kernel has told that the head came, which takes it 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        text = f"cannot listen on {address}: {error.strerror or error}"
        raise StartFailed(f"{text}; choose another --listen or stop what is there") from error
    with listener:
        yield listener
    if is_path:
        Path(path).unlink(missing_ok=True)


def _address(asked: str, listener: socket.socket) -> str:
    if asked.startswith("unix:"):
        return asked
    return f"{asked.rpartition(':')[0]}:{listener.getsockname()[1]}"
