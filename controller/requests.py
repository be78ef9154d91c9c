"""Request ids: the same one may come any number of times, but only with the same request."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from google.protobuf.message import Message

from controller.store.port import AlreadyThere, Kind, Store
from trillium.clock import Clock
from trillium.errors import RequestIdReused

KEPT = timedelta(days=1)


class Requests:
    """The request ids that came lately, each with what it came with."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def check(self, request_id: str, request: Message) -> None:
        """Remember what the id came with; raises RequestIdReused if that was another request.

        An empty id is not remembered.
        """
        if not request_id:
            return
        content = request.SerializeToString(deterministic=True)
        name = request.DESCRIPTOR.full_name.encode()
        body = {"digest": hashlib.sha256(name + b"\0" + content).hexdigest()}
        try:
            expires = self._clock.now() + KEPT
            await self._store.create(Kind.REQUEST, request_id, body, expires=expires)
            return
        except AlreadyThere:
            known = await self._store.get(Kind.REQUEST, request_id)
        if known is not None and known.body != body:
            raise RequestIdReused(f"request_id {request_id!r} came with another request before")
