"""DiscoveryService: snapshots out, confirmations in, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from trillium.controller.v1 import discovery_service_pb2 as pb
from trillium.errors import InvalidRequest
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.server.tasks import background
from trillium.waking import first_of

from .. import names
from .snapshot import BEAT_S, Difference, Discovery, PublishedEndpoint, Routes, Snapshot

DISCOVERY_SERVICE = "trillium.controller.v1.DiscoveryService"


class DiscoveryServicer:
    """Streams the predictors' endpoints to aggregators."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.draining = asyncio.Event()
        """Set when the server is about to stop: watches then end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        discovery = pb.DESCRIPTOR.services_by_name["DiscoveryService"]
        return service_of(discovery, {"WatchEndpoints": self._watch})

    async def _watch(
        self, requests: AsyncIterator[pb.WatchEndpointsRequest], call: Call
    ) -> AsyncGenerator[pb.WatchEndpointsResponse]:
        opening = await anext(requests, None)
        if opening is None or not opening.watcher_id:
            text = "is missing; the first message must hold it"
            raise InvalidRequest.of("watcher_id", text)
        watcher = names.checked_token(opening.watcher_id, "watcher_id", 64)
        # An unload waits for a watcher from here on, and only then may it see a snapshot.
        await self._discovery.confirm(watcher, 0)
        async with background(f"watcher {watcher}", self._confirm(watcher, requests)) as confirming:
            sent = 0
            while not (confirming.done() or self.draining.is_set()):
                changed = self._discovery.changed()
                snapshot = self._discovery.snapshot
                if snapshot.revision > sent:
                    base, sent = sent, snapshot.revision
                    difference = self._discovery.since(base) if opening.takes_differences else None
                    yield _message(difference or snapshot, opening.ensemble)
                await first_of(changed.wait(), self.draining.wait(), asyncio.wait((confirming,)))
            if confirming.done():
                confirming.result()

    async def _confirm(
        self, watcher: str, requests: AsyncIterator[pb.WatchEndpointsRequest]
    ) -> None:
        """Record what the watcher confirms, and that it is alive, until its stream ends.

        A watcher that is leaving is not waited for any more. One whose stream just ends is, until
        it has been silent for a while: it may still ask the predictors that it last saw, and
        grpc.aio reports a stream that was cut off as ended first.
        """
        confirmed = 0
        is_leaving = False
        heard = asyncio.Event()

        async def read() -> None:
            nonlocal confirmed, is_leaving
            async for request in requests:
                confirmed = max(confirmed, request.confirmed_revision)
                is_leaving = request.leaving
                heard.set()
                if is_leaving:
                    return

        async with background(f"requests of {watcher}", read()) as reading:
            recorded = 0
            while True:
                await first_of(heard.wait(), asyncio.wait((reading,)), timeout_s=BEAT_S)
                heard.clear()
                if is_leaving:
                    await self._discovery.leave(watcher)
                    return
                # Checked after `is_leaving`: both may have come while the last write was made.
                if reading.done() and recorded == confirmed:
                    reading.result()
                    return
                recorded = confirmed
                await self._discovery.confirm(watcher, recorded)


def _message(news: Snapshot | Difference, ensemble: str) -> pb.WatchEndpointsResponse:
    message = pb.WatchEndpointsResponse(
        revision=news.revision,
        endpoints=_endpoints(news.endpoints, ensemble),
        ensembles=_routes(news.routes, ensemble),
    )
    if isinstance(news, Difference):
        message.base_revision = news.base
        message.withdrawn.extend(_endpoints(news.withdrawn, ensemble))
    return message


def _routes(routes: Routes, ensemble: str) -> list[pb.EnsembleRoutes]:
    return [
        pb.EnsembleRoutes(
            ensemble=id,
            revisions=[
                pb.RevisionRoute(
                    revision=each.revision,
                    percent=each.percent,
                    classes=[
                        pb.RouteClass(class_label=label, model_digest=digest)
                        for label, digest in each.classes
                    ],
                )
                for each in revisions
            ],
        )
        for id, revisions in routes.items()
        if ensemble in ("", id)
    ]


def _endpoints(endpoints: Iterable[PublishedEndpoint], ensemble: str) -> list[pb.Endpoint]:
    return [
        pb.Endpoint(
            class_label=endpoint.class_label,
            address=endpoint.address,
            model_digest=endpoint.digest,
            deployment=names.DEPLOYMENTS + endpoint.deployment,
            ensemble=endpoint.ensemble,
            class_position=endpoint.class_position,
            owned=endpoint.owned,
        )
        for endpoint in endpoints
        if not ensemble or endpoint.ensemble == ensemble
    ]
