"""Frees the bytes that no model and no dataset names any more.

A blob that nothing names is given an hour to live; if it is named again before that, by somebody
who registers the same bytes just then, it is kept. Several controllers may do so at once.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from trillium.clock import Clock

from ..store.port import Store, StoreError
from .catalog import Catalog

log = logging.getLogger(__name__)

GRACE = timedelta(hours=1)
"""Far longer than it takes from keeping the bytes to writing the record that names them."""
INTERVAL_S = 600.0
"""Several looks in the grace, so that none of them matters."""


class BlobCollector:
    """Looks for blobs that nothing names."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.collect()
            except StoreError as error:
                log.warning("blobs not collected", extra={"detail": str(error)})
            await asyncio.sleep(INTERVAL_S)

    async def collect(self) -> None:
        """Look once."""
        unnamed = await self._look()
        if unnamed:
            # Named since the first look, perhaps.
            await self._look()

    async def _look(self) -> bool:
        """Have blobs expire that nothing names, and keep those that are named; returns whether any
        was not."""
        # The blobs first: one that comes afterwards is not judged by what was read before.
        found: dict[str, datetime | None] = {}
        after = ""
        while page := await self._store.blobs(after=after):
            found.update(page)
            after = list(page)[-1]
        named = set(await self._catalog.blobs_in_use())
        if self._catalog.model_records.unreadable or self._catalog.dataset_records.unreadable:
            # Nobody knows what those name.
            log.warning("artifacts and files are not freed: a record cannot be read")
            named |= found.keys()
        until = self._clock.now() + GRACE
        unnamed = [digest for digest in found if digest not in named]
        for digest in unnamed:
            # Again, if it was begun and not finished; never later than at first.
            await self._store.expire_blob(digest, found[digest] or until)
        for digest, expires in found.items():
            if digest in named and expires is not None:
                await self._store.expire_blob(digest, None)
        fresh = [digest for digest in unnamed if found[digest] is None]
        if fresh:
            log.info("artifacts and files are freed", extra={"count": len(fresh)})
        return bool(fresh)
