"""DiscoveryService: snapshots out, confirmations in, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from controller import names
from controller.discovery import BEAT_S, Discovery, Snapshot
from trillium.controller.v1 import discovery_service_pb2 as pb
from trillium.errors import InvalidRequest
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, stream_stream
from trillium.waking import first_of

DISCOVERY_SERVICE = "trillium.controller.v1.DiscoveryService"


class DiscoveryServicer:
    """Tells aggregators where the predictors are."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.draining = asyncio.Event()
        """Set when the server is about to stop: watches then end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        watch = stream_stream("WatchEndpoints", pb.WatchEndpointsRequest, self._watch)
        return Service(DISCOVERY_SERVICE, (watch,))

    async def _watch(
        self, requests: AsyncIterator[pb.WatchEndpointsRequest], call: Call
    ) -> AsyncGenerator[pb.WatchEndpointsResponse]:
        opening = await anext(requests, None)
        if opening is None or not opening.watcher_id:
            text = "is missing; the first message must hold it"
            raise InvalidRequest.of("watcher_id", text)
        watcher = names.checked_token(opening.watcher_id, "watcher_id", 64)
        # Nothing is told to whom an unload would not wait for yet.
        await self._discovery.confirm(watcher, 0)
        confirming = asyncio.create_task(self._confirm(watcher, requests))
        draining = asyncio.create_task(self.draining.wait())
        told = 0
        try:
            while not (confirming.done() or draining.done()):
                changed = self._discovery.changed()
                snapshot = self._discovery.snapshot
                if snapshot.revision > told:
                    told = snapshot.revision
                    yield _message(snapshot, opening.ensemble)
                waits = (asyncio.wait((each,)) for each in (confirming, draining))
                await first_of(changed.wait(), *waits)
            if confirming.done():
                confirming.result()
        finally:
            confirming.cancel()
            draining.cancel()

    async def _confirm(
        self, watcher: str, requests: AsyncIterator[pb.WatchEndpointsRequest]
    ) -> None:
        """Note what the watcher confirms, and that it is still there, until its stream ends.

        A watcher that says that it leaves is not waited for any more. One whose stream just ends
        is, until it has been silent for a while: it may well be asking what it knew last, and
        grpc.aio tells of a stream that was cut off first that it has ended.
        """
        confirmed = 0
        reading = asyncio.ensure_future(anext(requests, None))
        try:
            while True:
                await asyncio.wait((reading,), timeout=BEAT_S)
                if reading.done():
                    request = reading.result()
                    if request is None:
                        return
                    if request.leaving:
                        await self._discovery.leave(watcher)
                        return
                    confirmed = max(confirmed, request.confirmed_revision)
                    reading = asyncio.ensure_future(anext(requests, None))
                await self._discovery.confirm(watcher, confirmed)
        finally:
            reading.cancel()


def _message(snapshot: Snapshot, ensemble: str) -> pb.WatchEndpointsResponse:
    return pb.WatchEndpointsResponse(
        revision=snapshot.revision,
        endpoints=[
            pb.Endpoint(
                class_label=endpoint.class_label,
                address=endpoint.address,
                model_digest=endpoint.digest,
                deployment=names.DEPLOYMENTS + endpoint.deployment,
                ensemble=endpoint.ensemble,
                class_position=endpoint.class_position,
            )
            for endpoint in snapshot.endpoints
            if not ensemble or endpoint.ensemble == ensemble
        ],
    )
