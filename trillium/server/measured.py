"""Metrics of a server, if its settings ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trillium.server.config import ServerConfig
from trillium.server.doors import check_reach
from trillium.server.figures import Source


@asynccontextmanager
async def measured(config: ServerConfig, *sources: Source) -> AsyncIterator[str]:
    """Serve what the sources report inside the context. Yields the address, empty if the settings
    have none. Raises StartFailed."""
    if config.metrics_listen is None:
        yield ""
        return
    check_reach(config, config.metrics_listen, has_tls=False)
    # It takes 5 MB and 50 ms to import.
    from trillium.server.metrics import registry_of, serving_metrics

    async with serving_metrics(config.metrics_listen, registry_of(*sources)) as address:
        yield address
