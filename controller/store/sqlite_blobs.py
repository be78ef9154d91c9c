"""Blobs in a SQLite file."""

from __future__ import annotations

import sqlite3
from functools import partial

from trillium.clock import Clock

from . import blobs
from .port import StoreError
from .sqlite_file import SqliteFile


class SqliteBlobs:
    """Each chunk is a transaction of its own, so that other writes get their turn between."""

    def __init__(self, file: SqliteFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    async def put(self, digest: str, content: bytes) -> None:
        """See the port."""
        await blobs.check_content(digest, content)
        if await self._file.read(lambda file: _chunk_count(file, digest)) is not None:
            return
        until = self._clock.now() + blobs.UNFINISHED_FOR
        expires = round(until.timestamp() * 1000)
        for number, piece in enumerate(blobs.chunks(content)):
            row = (digest, number, expires, piece)
            await self._file.write(partial(_insert, row))
        count = blobs.count_chunks(content)
        await self._file.write(lambda file: _finish(file, digest, count))

    async def get(self, digest: str) -> bytes | None:
        """See the port."""
        blobs.check_digest(digest)
        count = await self._file.read(lambda file: _chunk_count(file, digest))
        if count is None:
            return None
        pieces = [await self._file.read(partial(_chunk, digest, number)) for number in range(count)]
        return await blobs.whole(digest, pieces)


def _chunk_count(file: sqlite3.Connection, digest: str) -> int | None:
    row = file.execute("SELECT chunks FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return row[0] if row else None


def _insert(row: tuple[str, int, int, memoryview], file: sqlite3.Connection) -> None:
    file.execute("INSERT INTO chunks VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)


def _finish(file: sqlite3.Connection, digest: str, count: int) -> None:
    (found,) = file.execute("SELECT count(*) FROM chunks WHERE digest = ?", (digest,)).fetchone()
    if found != count:
        raise StoreError(f"chunks of the blob {digest} expired while it was put; put it again")
    file.execute("UPDATE chunks SET expires = NULL WHERE digest = ?", (digest,))
    file.execute("INSERT INTO blobs VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, count))


def _chunk(digest: str, number: int, file: sqlite3.Connection) -> bytes:
    row = file.execute(
        "SELECT content FROM chunks WHERE digest = ? AND number = ?", (digest, number)
    ).fetchone()
    return bytes(row[0]) if row else b""
