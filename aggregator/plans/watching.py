"""Follows a controller: takes the predictors that it publishes into the roster, and confirms that.

While no controller answers, the last snapshot stays in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from trillium.controller.v1 import discovery_service_pb2 as pb
from trillium.controller.v1.discovery_service_pb2_grpc import DiscoveryServiceStub
from trillium.server.tasks import Supervisor

from .published import Published, published

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
FAREWELL_S = 1.0
"""Maximum time for the controller to note that this aggregator has left."""


class Watcher:
    """Keeps a watch on the controller's endpoints."""

    def __init__(
        self,
        address: str,
        follow: Callable[[Published], Awaitable[None]],
        *,
        ensemble: str,
        open_channel: Callable[[str], aio.Channel],
    ) -> None:
        """`follow` is given what is published of each ensemble, and returns when no other predictor
        is asked any more. `ensemble`, if given, is the only one that is published."""
        self._address = address
        self._follow = follow
        self._ensemble = ensemble
        self._open_channel = open_channel
        self._id = f"aggregator-{secrets.token_hex(8)}"
        self._stream: Any = None
        self._writing = asyncio.Lock()
        """Held while a message is written: a second one at the same time would break the call."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch inside the context; leave it when no predictor is asked any more."""
        async with Supervisor() as supervisor:
            supervisor.keep("watch of the controller", self._run)
            try:
                yield
            finally:
                await self._leave()

    async def _leave(self) -> None:
        """Leave the controller: no unload then waits for this aggregator's confirmation."""
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(
                aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError, TimeoutError
            ):
                async with asyncio.timeout(FAREWELL_S):
                    await self._write(stream, pb.WatchEndpointsRequest(leaving=True))
                    await stream.code()

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with self._open_channel(self._address) as channel:
                    if await self._watch(channel):
                        pause_s = FIRST_PAUSE_S
            except aio.AioRpcError as error:
                facts = {"address": self._address, "detail": error.details()}
                log.info("controller lost", extra=facts)
            except (aio.InternalError, asyncio.InvalidStateError):
                # Confirming after the leave, or to a controller that just went away.
                log.info("controller lost", extra={"address": self._address})
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _watch(self, channel: aio.Channel) -> bool:
        """Watch until the controller ends it; returns whether anything came."""
        self._stream = stream = DiscoveryServiceStub(channel).WatchEndpoints()
        opening = pb.WatchEndpointsRequest(
            watcher_id=self._id, ensemble=self._ensemble, takes_differences=True
        )
        await self._write(stream, opening)
        known: dict[tuple[str, str], pb.Endpoint] = {}
        routes: dict[str, Sequence[pb.RevisionRoute]] = {}
        revision = 0
        async for news in stream:
            if news.base_revision not in (0, revision):
                # Not to be confirmed: a new watch begins with a whole snapshot.
                facts = {"has": revision, "difference to": news.base_revision}
                log.error("the controller sent a difference to another snapshot", extra=facts)
                break
            if not news.base_revision:
                known, routes = {}, {}
            for each in news.withdrawn:
                known.pop((each.deployment, each.address), None)
            known |= {(each.deployment, each.address): each for each in news.endpoints}
            routes |= {each.ensemble: each.revisions for each in news.ensembles}
            routes = {name: each for name, each in routes.items() if each}
            revision = news.revision
            await self._follow(published(known.values(), routes))
            log.info("endpoints followed", extra={"revision": revision})
            confirmation = pb.WatchEndpointsRequest(confirmed_revision=revision)
            await self._write(stream, confirmation)
        return revision > 0

    async def _write(self, stream: Any, message: pb.WatchEndpointsRequest) -> None:
        async with self._writing:
            await stream.write(message)
