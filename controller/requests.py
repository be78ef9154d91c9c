"""Request ids: the same one may come any number of times, but only with the same request."""

from __future__ import annotations

from datetime import timedelta

from trillium.clock import Clock
from trillium.errors import RequestIdReused

from .store.port import AlreadyThere, Kind, Store

KEPT = timedelta(days=1)


class Requests:
    """The request ids of the last day, each with the digest of its request."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def check(self, request_id: str, digest: str) -> None:
        """Remember the request of an id by its digest; raises RequestIdReused if the id came with
        another request before.

        An empty id is not remembered.
        """
        if not request_id:
            return
        body = {"digest": digest}
        try:
            expires = self._clock.now() + KEPT
            await self._store.create(Kind.REQUEST, request_id, body, expires=expires)
            return
        except AlreadyThere:
            known = await self._store.get(Kind.REQUEST, request_id)
        if known is not None and known.body != body:
            raise RequestIdReused(f"request_id {request_id!r} came with another request before")
