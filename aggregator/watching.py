"""Follows a controller: has the roster know the predictors that it publishes, and confirms that.

What was known last stays good while no controller answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from aggregator.fanout import Fanout
from aggregator.roster import Endpoint, Roster
from trillium.controller.v1 import discovery_service_pb2 as pb
from trillium.controller.v1.discovery_service_pb2_grpc import DiscoveryServiceStub

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
FAREWELL_S = 1.0
"""How long the controller may take to note that we have left."""


class Watcher:
    """Keeps a watch on the controller's endpoints."""

    def __init__(
        self,
        address: str,
        roster: Roster,
        fanout: Fanout,
        *,
        ensemble: str,
        open_channel: Callable[[str], aio.Channel],
    ) -> None:
        """`ensemble`, if given, is the only one whose predictors are taken."""
        self._address = address
        self._roster = roster
        self._fanout = fanout
        self._ensemble = ensemble
        self._open_channel = open_channel
        self._id = f"aggregator-{secrets.token_hex(8)}"
        self._stream: Any = None
        self._writing = asyncio.Lock()
        """Held while a message is written: a second one at the same time would break the call."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch inside the context; leave it when no predictor is asked any more."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            await self._leave()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _leave(self) -> None:
        """Take leave of the controller: then no unload waits for our confirmation."""
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
                # Confirming after the leave was taken, or to a controller that just went away.
                log.info("controller lost", extra={"address": self._address})
            except Exception:
                log.exception("the watch failed")
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _watch(self, channel: aio.Channel) -> bool:
        """Watch until the controller ends it; answers whether anything came."""
        self._stream = stream = DiscoveryServiceStub(channel).WatchEndpoints()
        opening = pb.WatchEndpointsRequest(watcher_id=self._id, ensemble=self._ensemble)
        await self._write(stream, opening)
        came = False
        async for snapshot in stream:
            came = True
            self._roster.set_watched(
                {
                    Endpoint(each.class_label, each.address): each.class_position
                    for each in snapshot.endpoints
                }
            )
            await self._fanout.follow_roster()
            log.info("endpoints followed", extra={"revision": snapshot.revision})
            confirmation = pb.WatchEndpointsRequest(confirmed_revision=snapshot.revision)
            await self._write(stream, confirmation)
        return came

    async def _write(self, stream: Any, message: pb.WatchEndpointsRequest) -> None:
        async with self._writing:
            await stream.write(message)
