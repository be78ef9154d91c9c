"""Blobs in MongoDB: a document for each chunk, and one, written last, for the head."""

from __future__ import annotations

from functools import partial
from typing import Any

from pymongo.errors import DuplicateKeyError

from trillium.clock import Clock

from . import blobs
from .mongo_connection import MongoConnection
from .mongo_queries import Database, Document
from .mongo_schema import BLOBS, CHUNKS
from .port import StoreError


class MongoBlobs:
    """All of a put may be repeated safely, so a lost connection is the caller's to repeat."""

    def __init__(self, connection: MongoConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def put(self, digest: str, content: bytes) -> None:
        """See the port. Each chunk may take as long as a call may."""
        await blobs.check_content(digest, content)
        if await self._connection.call(partial(_chunk_count, digest)) is not None:
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
        count = await self._connection.call(partial(_chunk_count, digest))
        if count is None:
            return None
        pieces = [
            await self._connection.call(partial(_chunk, digest, number)) for number in range(count)
        ]
        return await blobs.whole(digest, pieces)


async def _chunk_count(digest: str, database: Database) -> int | None:
    head = await database[BLOBS].find_one({"_id": digest})
    return None if head is None else int(head["chunks"])


async def _insert(document: Document, database: Database) -> None:
    try:
        await database[CHUNKS].insert_one(document)
    except DuplicateKeyError:
        # Somebody else's, of the same bytes. Not written again: if its blob has its head by now, it
        # must not expire any more.
        return


async def _finish(digest: str, count: int, database: Database) -> None:
    mine = {"_id": {"$gte": _key(digest, 0), "$lt": _key(digest, count)}}
    await database[CHUNKS].update_many(mine, {"$unset": {"expires": ""}})
    # Counted after they have stopped to expire, and only then given a head.
    if await database[CHUNKS].count_documents(mine) != count:
        raise StoreError(f"chunks of the blob {digest} expired while it was put; put it again")
    await database[BLOBS].update_one({"_id": digest}, {"$set": {"chunks": count}}, upsert=True)


async def _chunk(digest: str, number: int, database: Database) -> bytes:
    chunk = await database[CHUNKS].find_one({"_id": _key(digest, number)})
    return bytes(chunk["content"]) if chunk else b""


def _key(digest: str, number: int) -> dict[str, Any]:
    """The order of the fields is part of the key, and what makes a range of it a blob's chunks."""
    return {"digest": digest, "number": number}
