"""Metrics for Prometheus, over HTTP on a port or a Unix socket of their own.

One request is answered at a time, in a thread: whoever reads slowly holds up no call, and other
scrapes for `SCRAPE_S` at most.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trillium.server.figures import Distribution, Family, Source
from trillium.server.process import StartFailed

log = logging.getLogger(__name__)

SCRAPE_S = 5.0
"""How long a scraper may take to ask and to read."""


class _Figures(Collector):
    """Our families in prometheus_client's terms."""

    def __init__(self, sources: Sequence[Source], loop: asyncio.AbstractEventLoop) -> None:
        self._sources = sources
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        # Where it is counted, and in one step: the numbers of one scrape belong together.
        reported = asyncio.run_coroutine_threadsafe(self._reported(), self._loop)
        return [_converted(family) for family in reported.result(SCRAPE_S)]

    async def _reported(self) -> list[Family]:
        return [family.copy() for source in self._sources for family in source()]


def _converted(family: Family) -> Metric:
    measure, samples = family.measure, family.samples.items()
    if measure.kind == "histogram":
        histogram = HistogramMetricFamily(measure.name, measure.help, labels=measure.labels)
        for labels, value in samples:
            if isinstance(value, Distribution):
                histogram.add_metric(labels, _buckets(value), value.total)
        return histogram
    made = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    plain: Any = made(measure.name, measure.help, labels=measure.labels)
    for labels, value in samples:
        plain.add_metric(labels, value)
    return plain  # type: ignore[no-any-return]


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    found, so_far = [], 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        so_far += count
        found.append(("+Inf" if math.isinf(bound) else str(bound), float(so_far)))
    return found


def registry_of(*sources: Source) -> CollectorRegistry:
    """A registry of what the sources report in the running event loop, and of this process: its
    memory, CPU and files."""
    registry = CollectorRegistry()
    registry.register(_Figures(sources, asyncio.get_running_loop()))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_S

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("scrape", extra={"detail": format % args})

    def address_string(self) -> str:
        return ""  # The peer of a Unix socket has none.


class _Server(WSGIServer):
    request_queue_size = 16

    def __init__(self, listen: str) -> None:
        path = listen.removeprefix("unix:")
        self.is_path = path != listen
        where: Any = path
        if self.is_path:
            self.address_family = socket.AF_UNIX
        else:
            host, _, port = listen.rpartition(":")
            host = host.strip("[]")
            self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            where = (host, int(port))
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        # Not WSGIServer's, which looks up the name of the host, and has none for a path.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.is_path:
            _remove_left_over(str(self.server_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "metrics", 0
        self.setup_environ()

    def end(self) -> None:
        """Stop, which waits for a request that is being answered."""
        self.shutdown()
        self.server_close()
        if self.is_path:
            Path(str(self.server_address)).unlink(missing_ok=True)

    def get_request(self) -> Any:
        request, address = super().get_request()
        return request, address or ("", 0)


@asynccontextmanager
async def serving_metrics(listen: str, registry: CollectorRegistry) -> AsyncIterator[str]:
    """Serve a registry at `/metrics` of that address inside the context. Yields the address, with
    the actual port. Raises StartFailed."""
    try:
        server = _Server(listen)
    except OSError as error:
        text = f"cannot serve metrics on {listen}: {error.strerror or error}"
        raise StartFailed(f"{text}; choose another --metrics-listen") from error
    server.set_app(make_wsgi_app(registry, disable_compression=False))
    serve = partial(server.serve_forever, poll_interval=0.05)
    threading.Thread(target=serve, name="metrics", daemon=True).start()
    address = listen
    if not server.is_path:
        address = f"{listen.rpartition(':')[0]}:{server.socket.getsockname()[1]}"
    log.info("serving metrics", extra={"address": address})
    try:
        yield address
    finally:
        await asyncio.to_thread(server.end)


def _remove_left_over(path: str) -> None:
    """Remove the socket of a server that was killed; one that somebody listens on stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return
