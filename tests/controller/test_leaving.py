"""A watcher's leave is recorded whenever it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from controller.discovery.service import DiscoveryServicer
from controller.discovery.snapshot import Discovery
from trillium.controller.v1 import discovery_service_pb2 as pb


class Recorded:
    """Stands in for a Discovery whose writes take until the stream of requests has ended."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.writing = asyncio.Event()
        self.ended = asyncio.Event()

    async def confirm(self, watcher: str, revision: int) -> None:
        self.calls.append(f"confirmed {revision}")
        self.writing.set()
        await self.ended.wait()
        for _ in range(10):
            await asyncio.sleep(0)

    async def leave(self, watcher: str) -> None:
        self.calls.append("left")


async def test_a_leave_that_comes_while_a_confirmation_is_written_is_recorded() -> None:
    recorded = Recorded()

    async def requests() -> AsyncIterator[pb.WatchEndpointsRequest]:
        yield pb.WatchEndpointsRequest(confirmed_revision=1)
        await recorded.writing.wait()
        yield pb.WatchEndpointsRequest(leaving=True)

    async def ended() -> AsyncIterator[pb.WatchEndpointsRequest]:
        async for request in requests():
            if request.leaving:
                recorded.ended.set()
            yield request

    servicer = DiscoveryServicer(cast(Discovery, cast(Any, recorded)))
    await asyncio.wait_for(servicer._confirm("w", ended()), 10)
    assert recorded.calls == ["confirmed 1", "left"]
