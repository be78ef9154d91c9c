"""Blobs in MongoDB: a document for each chunk, and one, written last, for the head."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from pymongo.errors import DuplicateKeyError

from trillium.clock import Clock

from . import blobs
from .mongo_connection import MongoConnection
from .mongo_queries import Database, Document
from .mongo_schema import BLOBS, CHUNKS
from .port import StoreError

_TRIES = 3
"""A chunk that the server drops just when it is put is put again."""


class MongoBlobs:
    """All of a put may be repeated safely, so a lost connection is the caller's to repeat."""

    def __init__(self, connection: MongoConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def put(self, digest: str, content: bytes) -> None:
        """See the port. Each chunk may take as long as a call may."""
        await blobs.check_content(digest, content)
        head = await self._connection.call(partial(_head, digest))
        if head is not None and "expires" not in head:
            return
        for number, piece in enumerate(blobs.chunks(content)):
            document = {
                "_id": _key(digest, number),
                "content": bytes(piece),
                "expires": self._clock.now() + blobs.UNFINISHED_FOR,
            }
            await self._connection.call(partial(_insert, document))
        count = blobs.count_chunks(content)
        await self._connection.call(partial(_finish, digest, count))

    async def get(self, digest: str) -> bytes | None:
        """See the port."""
        blobs.check_digest(digest)
        head = await self._connection.call(partial(_head, digest))
        if head is None or self._has_expired(head):
            return None
        pieces = [
            await self._connection.call(partial(_chunk, digest, number))
            for number in range(head["chunks"])
        ]
        return await blobs.whole(digest, pieces)

    async def list(self, after: str, limit: int) -> dict[str, datetime | None]:
        """See the port."""
        now = self._clock.now()
        return await self._connection.call(partial(_listed, after, limit, now))

    async def expire(self, digest: str, expires: datetime | None) -> None:
        """See the port. Whoever finds a head that does not expire relies on all of its chunks: the
        head is the first to begin with it, and the last to end."""
        blobs.check_digest(digest)
        head = await self._connection.call(partial(_head, digest))
        if head is None or self._has_expired(head):
            return
        mine = {"_id": {"$gte": _key(digest, 0), "$lt": _key(digest, head["chunks"])}}
        change = {"$unset": {"expires": ""}} if expires is None else {"$set": {"expires": expires}}
        of_head = partial(_update, BLOBS, {"_id": digest}, change)
        of_chunks = partial(_update, CHUNKS, mine, change)
        for each in (of_chunks, of_head) if expires is None else (of_head, of_chunks):
            await self._connection.call(each)

    def _has_expired(self, head: Document) -> bool:
        return "expires" in head and head["expires"] <= self._clock.now()


async def _head(digest: str, database: Database) -> Document | None:
    return await database[BLOBS].find_one({"_id": digest})


async def _listed(
    after: str, limit: int, now: datetime, database: Database
) -> dict[str, datetime | None]:
    lives = [{"expires": {"$exists": False}}, {"expires": {"$gt": now}}]
    cursor = database[BLOBS].find({"_id": {"$gt": after}, "$or": lives}).sort("_id").limit(limit)
    return {found["_id"]: found.get("expires") async for found in cursor}


async def _update(collection: str, wanted: Document, change: Document, database: Database) -> None:
    await database[collection].update_many(wanted, change)


async def _insert(document: Document, database: Database) -> None:
    id = {"_id": document["_id"]}
    for _ in range(_TRIES):
        try:
            await database[CHUNKS].insert_one(document)
        except DuplicateKeyError:
            # Somebody else's, of the same bytes. If its blob has its head by now, it must not
            # expire any more; if it is about to go, it must not before this put is done.
            later = {"$set": {"expires": document["expires"]}}
            done = await database[CHUNKS].update_one({**id, "expires": {"$exists": True}}, later)
            if done.matched_count or await database[CHUNKS].find_one(id, {"_id": 1}):
                return
        else:
            return


async def _finish(digest: str, count: int, database: Database) -> None:
    mine = {"_id": {"$gte": _key(digest, 0), "$lt": _key(digest, count)}}
    await database[CHUNKS].update_many(mine, {"$unset": {"expires": ""}})
    # Counted after they have stopped to expire, and only then given a head.
    if await database[CHUNKS].count_documents(mine) != count:
        raise StoreError(f"chunks of the blob {digest} expired while it was put; put it again")
    kept = {"$set": {"chunks": count}, "$unset": {"expires": ""}}
    await database[BLOBS].update_one({"_id": digest}, kept, upsert=True)


async def _chunk(digest: str, number: int, database: Database) -> bytes:
    chunk = await database[CHUNKS].find_one({"_id": _key(digest, number)})
    return bytes(chunk["content"]) if chunk else b""


def _key(digest: str, number: int) -> dict[str, Any]:
    """The order of the fields is part of the key, and what makes a range of it a blob's chunks."""
    return {"digest": digest, "number": number}
