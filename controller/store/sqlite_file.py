"""A SQLite file, its two threads, and what its errors mean."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trillium.server.private import close_to_others, make_file

from .port import Kind, StoreError, StoreUnavailable
from .sqlite_schema import prepare

T = TypeVar("T")

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""What may be gone at the next attempt, by itself or because somebody frees a disk."""


_SHORTEST_WAIT_S = 0.1
"""For another program's transaction, however long a write has waited for its turn."""


class SqliteFile:
    """One file, one thread that writes and one that reads, each with a connection of its own.

    In WAL mode neither waits for the other. Other processes may have the same file open.
    """

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._writer = _Thread("trillium-store-write")
        self._reader = _Thread("trillium-store-read")

    async def open(self) -> None:
        """Open the file, and make it if it is missing; its folder must be there."""
        try:
            await self._writer.start(self._open_writer)
            await self._reader.start(self._open_reader)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Wait for the jobs that were begun before, refuse later ones, and close the file.

        If no other program has it open, all of it is then in the one file, which may be copied.
        """
        # One after the other: the last to close it empties the log, and of two at once none is.
        try:
            await self._reader.stop()
        finally:
            await self._writer.stop()

    async def write(self, job: Callable[[sqlite3.Connection], T], *changed: Kind) -> T:
        """Run `job` in a transaction; it is durable when this returns, and undone if it raises.

        `changed` are the kinds of the records that it may change. Cancelling this does not stop
        the job once it runs. Other programs' transactions are waited for as long as the file was
        opened with, counted from now: one that hangs does not make a queue of writes wait for each
        other.
        """
        asked = time.monotonic()

        def transaction(connection: sqlite3.Connection) -> T:
            with self._translated():
                left_s = self._busy_timeout_s - (time.monotonic() - asked)
                wait_ms = round(max(left_s, _SHORTEST_WAIT_S) * 1000)
                connection.execute(f"PRAGMA busy_timeout = {wait_ms}")
                connection.execute("BEGIN IMMEDIATE")
                before = connection.total_changes
                try:
                    result = job(connection)
                    if connection.total_changes > before:
                        _count(connection, changed)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return result

        return await self._writer.run(transaction)

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job`, which only reads; each of its statements sees one state of the file."""

        def reading(connection: sqlite3.Connection) -> T:
            with self._translated():
                return job(connection)

        return await self._reader.run(reading)

    def _open_writer(self) -> sqlite3.Connection:
        with self._translated():
            connection = self._connect()
            try:
                self._use_wal(connection)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    prepare(connection)
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            except BaseException:
                connection.close()
                raise
            return connection

    def _open_reader(self) -> sqlite3.Connection:
        with self._translated():
            return self._connect("PRAGMA query_only = ON")

    def _connect(self, *settings: str) -> sqlite3.Connection:
        if not self._path.parent.is_dir():
            raise StoreUnavailable(f"there is no folder {self._path.parent} for the store's file")
        self._keep_to_owner()
        connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None)
        # FULL makes a commit wait for the disk; in WAL mode the default would not.
        try:
            for setting in ("PRAGMA synchronous = FULL", *settings):
                connection.execute(setting)
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep_to_owner(self) -> None:
        """Make the file for its owner alone; those that SQLite adds get its mode."""
        try:
            make_file(self._path)
            for suffix in ("-wal", "-shm"):
                close_to_others(self._path.with_name(self._path.name + suffix))
        except OSError as error:
            text = f"the store's file {self._path} cannot be opened: {error.strerror}"
            raise StoreUnavailable(text) from error

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch the file to WAL mode, which SQLite refuses at once while another one does so."""
        give_up = time.monotonic() + self._busy_timeout_s
        mode = ""
        while not mode:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise StoreError(f"{self._path}: SQLite cannot keep a write-ahead log on this disk")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            error.add_note(f"the store's file is {self._path}")
            raise
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                text = f"another program has not ended its write to the store's file {self._path}"
                raise StoreUnavailable(f"{text} within {self._busy_timeout_s:g} s") from error
            if _code(error) in _PASSING:
                raise StoreUnavailable(
                    f"the store's file {self._path} cannot be used now: {error}"
                ) from error
            raise StoreError(f"the store's file {self._path} is no good: {error}") from error


class _Thread:
    """One thread that owns one connection."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def start(self, connect: Callable[[], sqlite3.Connection]) -> None:
        if self._executor:
            return
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)

        def connecting() -> None:
            self._connection = connect()

        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, connecting)
        except BaseException:
            await self.stop()
            raise

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._executor is None:
            raise StoreUnavailable("the store is closed")

        def guarded() -> T:
            connection = self._connection
            if connection is None:
                raise StoreUnavailable("the store is closed")
            return job(connection)

        return await asyncio.get_running_loop().run_in_executor(self._executor, guarded)

    async def stop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return

        def closing() -> None:
            connection, self._connection = self._connection, None
            if connection:
                connection.close()

        # In the thread, after the job that runs: SQLite may not be closed under it.
        await asyncio.get_running_loop().run_in_executor(executor, closing)
        executor.shutdown(wait=True)


def _count(connection: sqlite3.Connection, changed: tuple[Kind, ...]) -> None:
    connection.executemany(
        "UPDATE changes SET count = count + 1 WHERE kind = ?", [(kind.value,) for kind in changed]
    )


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 where the error is of Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
