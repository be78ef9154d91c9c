"""The store that needs no server: one SQLite file, from the standard library.

Several processes of one machine may share the file; not several machines, whatever the file system
promises. Every write is one transaction that waits for the disk, so a call that raises has had no
effect, but for a disk that failed during the commit. A cancelled call's write may still happen.

A record or entry whose time to expire has passed is as good as gone: it is not read any more, and a
sweep removes it from the file, a bounded number each second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from trillium.clock import Clock, SystemClock
from trillium.server.tasks import Supervisor

from . import codec
from .port import (
    AlreadyThere,
    Body,
    Entry,
    Kind,
    Log,
    Record,
    Scalar,
    StoreError,
    StoreUnavailable,
)
from .sqlite_blobs import SqliteBlobs
from .sqlite_file import SqliteFile
from .sqlite_queries import (
    Changes,
    append_entry,
    delete_record,
    drop_entries,
    has_expired,
    insert_record,
    list_records,
    list_revisions,
    read_entries,
    read_record,
    remove_expired,
    replace_record,
)
from .wakes import StoreWatches

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
"""How late a watch may learn of what another process changed. A look is one PRAGMA."""
_SWEEP_EVERY_LOOKS = 10


class SqliteStore:
    """Implements `controller.store.port.Store`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        busy_timeout_s: float = 5.0,
        on_failing: Callable[[str, bool], None] = lambda name, failing: None,
    ) -> None:
        """`path` is made if missing, its folder is not.

        A call waits `busy_timeout_s` at most for other processes' writes, then raises
        StoreUnavailable. `clock` decides what has expired; `on_failing` is that of a Supervisor.
        """
        self._clock = clock or SystemClock()
        self._file = SqliteFile(path, busy_timeout_s)
        self._blobs = SqliteBlobs(self._file, self._clock)
        self._wakes = StoreWatches()
        self._tasks = Supervisor(on_failing)

    async def open(self) -> None:
        await self._file.open()
        self._wakes.reopen()
        if not self._tasks.running:
            self._tasks.keep("tending of the store's file", self._tend)

    async def close(self) -> None:
        self._wakes.close()
        await self._tasks.close()
        await self._file.close()

    async def create(
        self, kind: Kind, id: str, body: Body, *, expires: datetime | None = None
    ) -> Record:
        codec.check_id(id)
        checked, until = codec.check_body(body, kind), _instant(expires)
        text, now = codec.to_json(checked), self._now()
        if not await self._file.write(
            lambda file: insert_record(file, kind, id, checked, text, until, now), kind
        ):
            raise AlreadyThere(f"{kind.value}/{id} exists")
        self._wakes.wake([kind])
        return Record(id, 1, checked.body)

    async def get(self, kind: Kind, id: str) -> Record | None:
        codec.check_id(id)
        now = self._now()
        return await self._file.read(lambda file: read_record(file, kind, id, now))

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
        wanted, now = codec.check_where(kind, where), self._now()
        return await self._file.read(
            lambda file: list_records(file, kind, wanted, after, limit, now)
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
        wanted, now = codec.check_where(kind, where), self._now()
        return await self._file.read(
            lambda file: list_revisions(file, kind, wanted, after, limit, now)
        )

    async def compare_and_set(
        self, kind: Kind, id: str, rev: int, body: Body, *, expires: datetime | None = None
    ) -> Record | None:
        codec.check_id(id)
        codec.check_number(rev, "rev")
        checked, until = codec.check_body(body, kind), _instant(expires)
        text, now = codec.to_json(checked), self._now()
        if not await self._file.write(
            lambda file: replace_record(file, kind, id, rev, checked, text, until, now), kind
        ):
            return None
        self._wakes.wake([kind])
        return Record(id, rev + 1, checked.body)

    async def delete(self, kind: Kind, id: str, rev: int) -> bool:
        codec.check_id(id)
        codec.check_number(rev, "rev")
        now = self._now()
        done = await self._file.write(lambda file: delete_record(file, kind, id, rev, now), kind)
        if done:
            self._wakes.wake([kind])
        return done

    async def append(
        self, log: Log, owner: str, number: int, body: Body, *, expires: datetime | None = None
    ) -> None:
        codec.check_id(owner, "an owner")
        codec.check_number(number, "number")
        text, until = codec.to_json(codec.check_body(body)), _instant(expires)
        now = self._now()
        if not await self._file.write(
            lambda file: append_entry(file, log, owner, number, text, until, now)
        ):
            raise AlreadyThere(f"{log.value} of {owner}: entry {number} has another body")

    async def read(self, log: Log, owner: str, *, after: int = 0, limit: int) -> Sequence[Entry]:
        codec.check_id(owner, "an owner")
        codec.check_number(limit, "limit")
        now = self._now()
        return await self._file.read(lambda file: read_entries(file, log, owner, after, limit, now))

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
        while await self._file.write(lambda file: drop_entries(file, log, owner)):
            pass

    def watch(self, *kinds: Kind) -> AsyncGenerator[None, None]:
        return self._wakes.watch(kinds)

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._file.read(lambda file: file.execute("SELECT 1").fetchone())
        except TimeoutError:
            raise StoreUnavailable("the store's file does not answer within 2 s") from None

    async def _tend(self) -> None:
        """Wake the watches for changes of others, and remove what has expired, until cancelled."""
        seen = Changes()
        looks = 0
        while True:
            try:
                if self._wakes.are_awaited:
                    last, seen = seen, await self._file.read(seen.later)
                    self._wakes.wake(seen.kinds_since(last))
                if looks % _SWEEP_EVERY_LOOKS == 0:
                    await self._sweep()
            except StoreError as error:
                _log.warning("the store's file could not be looked after: %s", error)
            looks += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _sweep(self) -> None:
        now = self._now()
        if await self._file.read(lambda file: has_expired(file, now)):
            await self._file.write(lambda file: remove_expired(file, now), *Kind)

    def _now(self) -> int:
        return _milliseconds(self._clock.now())


def _instant(expires: datetime | None) -> int | None:
    checked = codec.check_expires(expires)
    return None if checked is None else _milliseconds(checked)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
