"""The store for real use: MongoDB 6.0 or newer, through pymongo's asynchronous client.

A write whose answer is lost is looked for. Every document carries the id of the operation that last
wrote it; the look is itself a write, one that changes nothing and waits for a majority and the
journal, so what it finds will not be rolled back:

- create, compare_and_set: found, and the call has succeeded; not found, and it may be that it never
  happened, happens yet, or was overwritten: StoreUnavailable, and the caller reads again.
- append is repeated instead: an equal entry is a success anyway.
- delete leaves nothing to look for: StoreUnavailable.

On a replica set the driver repeats each of them once before that, which the server makes safe; on a
standalone it does not.

A standalone has two more limits. It has no change streams, so a watch wakes twice a second there,
change or no change. And a reader may see a change some milliseconds before the journal has it; if
the server is killed just then, that revision can come back with another body. A replica set, of one
node too, shows only what is safe: prefer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime

from trillium.clock import Clock, SystemClock
from trillium.server.tasks import Supervisor

from . import codec, mongo_queries
from .mongo_blobs import MongoBlobs
from .mongo_connection import MongoConnection
from .mongo_schema import prepare
from .mongo_watch import follow
from .port import AlreadyThere, Body, Entry, Kind, Log, Record, Scalar
from .wakes import StoreWatches

_OPEN_S = 60.0
"""An index on a large collection takes its time."""


class MongoStore:
    """Implements `controller.store.port.Store`. Its errors never show what the URI holds in
    secret."""

    def __init__(
        self,
        uri: str,
        *,
        database: str = "trillium",
        call_timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        """User, password and TLS are options of the URI; a single server that is reached by another
        name than its own needs `directConnection=true` there.

        Every call ends within `call_timeout_s`, a blob's within that for each 4 MiB.
        """
        self.database = database
        self._connection = MongoConnection(uri, database, call_timeout_s)
        self._blobs = MongoBlobs(self._connection, clock or SystemClock())
        self._wakes = StoreWatches()
        self._tasks = Supervisor()

    async def open(self) -> None:
        self._connection.open()
        try:
            # First, because it is bounded: of what follows, an index may take longer.
            await self._connection.call(mongo_queries.ping)
            await self._connection.call(prepare, timeout_s=_OPEN_S)
        except BaseException:
            await self.close()
            raise
        self._wakes.reopen()

    async def close(self) -> None:
        self._wakes.close()
        await self._connection.close()
        # It ends by itself: the driver is not to be cancelled.
        if self._tasks.running:
            await asyncio.wait(self._tasks.running)

    async def create(
        self, kind: Kind, id: str, body: Body, *, expires: datetime | None = None
    ) -> Record:
        codec.check_id(id)
        checked, until = codec.check_body(body, kind), codec.check_expires(expires)
        if not await self._connection.call(
            lambda database: mongo_queries.insert_record(database, kind, id, checked, until)
        ):
            raise AlreadyThere(f"{kind.value}/{id} exists")
        self._wakes.wake([kind])
        return Record(id, 1, checked.body)

    async def get(self, kind: Kind, id: str) -> Record | None:
        codec.check_id(id)
        return await self._connection.call(
            lambda database: mongo_queries.read_record(database, kind, id)
        )

    async def list(
        self,
        kind: Kind,
        *,
        where: Mapping[str, Sequence[Scalar]] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[Record]:
        codec.check_number(limit, "limit", 1000)
        codec.check_after(after)
        wanted = codec.check_where(kind, where)
        return await self._connection.call(
            lambda database: mongo_queries.list_records(database, kind, wanted, after, limit)
        )

    async def revisions(
        self,
        kind: Kind,
        *,
        where: Mapping[str, Sequence[Scalar]] | None = None,
        after: str = "",
        limit: int = codec.MOST_REVISIONS,
    ) -> Mapping[str, int]:
        codec.check_number(limit, "limit", codec.MOST_REVISIONS)
        codec.check_after(after)
        wanted = codec.check_where(kind, where)
        return await self._connection.call(
            lambda database: mongo_queries.list_revisions(database, kind, wanted, after, limit)
        )

    async def compare_and_set(
        self, kind: Kind, id: str, rev: int, body: Body, *, expires: datetime | None = None
    ) -> Record | None:
        codec.check_id(id)
        codec.check_number(rev, "rev")
        checked, until = codec.check_body(body, kind), codec.check_expires(expires)
        if not await self._connection.call(
            lambda database: mongo_queries.replace_record(database, kind, id, rev, checked, until)
        ):
            return None
        self._wakes.wake([kind])
        return Record(id, rev + 1, checked.body)

    async def delete(self, kind: Kind, id: str, rev: int) -> bool:
        codec.check_id(id)
        codec.check_number(rev, "rev")
        done = await self._connection.call(
            lambda database: mongo_queries.delete_record(database, kind, id, rev)
        )
        if done:
            self._wakes.wake([kind])
        return done

    async def append(
        self, log: Log, owner: str, number: int, body: Body, *, expires: datetime | None = None
    ) -> None:
        codec.check_id(owner, "an owner")
        codec.check_number(number, "number")
        checked, until = codec.check_body(body), codec.check_expires(expires)
        if not await self._connection.call(
            lambda database: mongo_queries.append_entry(
                database, log, owner, number, checked, until
            )
        ):
            raise AlreadyThere(f"{log.value} of {owner}: entry {number} has another body")

    async def read(self, log: Log, owner: str, *, after: int = 0, limit: int) -> Sequence[Entry]:
        codec.check_id(owner, "an owner")
        codec.check_number(limit, "limit")
        return await self._connection.call(
            lambda database: mongo_queries.read_entries(database, log, owner, after, limit)
        )

    async def put_blob(self, digest: str, content: bytes) -> None:
        await self._blobs.put(digest, content)

    async def get_blob(self, digest: str) -> bytes | None:
        return await self._blobs.get(digest)

    async def blobs(self, *, after: str = "", limit: int = 1000) -> Mapping[str, datetime | None]:
        codec.check_number(limit, "limit", 1000)
        return await self._blobs.list(codec.check_after(after), limit)

    async def expire_blob(self, digest: str, expires: datetime | None) -> None:
        await self._blobs.expire(digest, codec.check_expires(expires))

    async def drop_log(self, log: Log, owner: str) -> None:
        codec.check_id(owner, "an owner")
        await self._connection.call(
            lambda database: mongo_queries.drop_entries(database, log, owner)
        )

    def watch(self, *kinds: Kind) -> AsyncGenerator[None, None]:
        if self._connection.is_open and not self._tasks.running:
            self._tasks.start("change stream of the store", follow(self._connection, self._wakes))
        return self._wakes.watch(kinds)

    async def ping(self) -> None:
        await self._connection.call(mongo_queries.ping, timeout_s=2.0)
