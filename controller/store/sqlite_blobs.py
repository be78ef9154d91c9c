"""Blobs in a SQLite file."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
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
        if await self._file.read(lambda file: _is_kept(file, digest)):
            return
        expires = _milliseconds(self._clock.now() + blobs.UNFINISHED_FOR)
        for number, piece in enumerate(blobs.chunks(content)):
            row = (digest, number, expires, piece)
            await self._file.write(partial(_insert, row))
        count = blobs.count_chunks(content)
        await self._file.write(lambda file: _finish(file, digest, count))

    async def get(self, digest: str) -> bytes | None:
        """See the port."""
        blobs.check_digest(digest)
        now = _milliseconds(self._clock.now())
        count = await self._file.read(lambda file: _chunk_count(file, digest, now))
        if count is None:
            return None
        pieces = [await self._file.read(partial(_chunk, digest, number)) for number in range(count)]
        return await blobs.whole(digest, pieces)

    async def list(self, after: str, limit: int) -> dict[str, datetime | None]:
        """See the port."""
        now = _milliseconds(self._clock.now())
        rows = await self._file.read(lambda file: _listed(file, after, limit, now))
        return {
            digest: None if expires is None else datetime.fromtimestamp(expires / 1000, UTC)
            for digest, expires in rows
        }

    async def expire(self, digest: str, expires: datetime | None) -> None:
        """See the port."""
        blobs.check_digest(digest)
        now = _milliseconds(self._clock.now())
        count = await self._file.read(lambda file: _chunk_count(file, digest, now))
        until = None if expires is None else _milliseconds(expires)
        for number in range(count or 0):
            await self._file.write(partial(_expire, digest, number, until))


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _chunk_count(file: sqlite3.Connection, digest: str, now: int) -> int | None:
    """Of a blob that is there; not of one that has expired, or that is being put once more."""
    row = file.execute("SELECT chunks FROM blobs WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None
    count = int(row[0])
    found, soonest = file.execute(
        "SELECT count(*), min(expires) FROM chunks WHERE digest = ?", (digest,)
    ).fetchone()
    if soonest is None:
        return count if found or not count else None
    return count if soonest > now and found == count else None


def _is_kept(file: sqlite3.Connection, digest: str) -> bool:
    """Whether a blob is there with all of its chunks, and none of them will expire."""
    row = file.execute("SELECT chunks FROM blobs WHERE digest = ?", (digest,)).fetchone()
    (kept,) = file.execute(
        "SELECT count(*) FROM chunks WHERE digest = ? AND expires IS NULL", (digest,)
    ).fetchone()
    return row is not None and bool(row[0] == kept)


def _listed(
    file: sqlite3.Connection, after: str, limit: int, now: int
) -> list[tuple[str, int | None]]:
    return file.execute(
        "SELECT digest, soonest FROM (SELECT digest, chunks, "
        "(SELECT min(expires) FROM chunks WHERE digest = blobs.digest) AS soonest, "
        "(SELECT count(*) FROM chunks WHERE digest = blobs.digest) AS found "
        "FROM blobs WHERE digest > ?) "
        "WHERE (soonest IS NULL AND (found OR NOT chunks)) OR (soonest > ? AND found = chunks) "
        "ORDER BY digest LIMIT ?",
        (after, now, limit),
    ).fetchall()


def _expire(digest: str, number: int, until: int | None, file: sqlite3.Connection) -> None:
    file.execute(
        "UPDATE chunks SET expires = ? WHERE digest = ? AND number = ? AND expires IS NOT ?",
        (until, digest, number, until),
    )


def _insert(row: tuple[str, int, int, memoryview], file: sqlite3.Connection) -> None:
    file.execute(
        "INSERT INTO chunks VALUES (?, ?, ?, ?) ON CONFLICT (digest, number) "
        "DO UPDATE SET expires = excluded.expires WHERE expires IS NOT NULL",
        row,
    )


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
