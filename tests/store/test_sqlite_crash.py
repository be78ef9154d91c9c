"""A SQLite store whose process is killed, that several processes share, or whose file is bad."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.store.port import Kind, Record, StoreError, StoreUnavailable
from controller.store.sqlite import SqliteStore
from controller.store.sqlite_schema import VERSION
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
RUN = Kind.RUN


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout_s=1.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def start_writer(path: Path, id: str, times: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.sqlite_writer", str(path), id, str(times)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


async def test_a_store_that_was_closed_is_whole_in_its_one_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for number in range(60):
        async with opened(path) as store:
            await store.create(RUN, f"r{number}", {})
            assert await store.get(RUN, f"r{number}") is not None
        assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged = 0
    for kill in range(3):
        writer = await start_writer(path, "r1", 10**6)
        assert writer.stdout
        for _ in range(40 + 7 * kill):
            acknowledged = max(acknowledged, int(await writer.stdout.readline()))
        writer.kill()
        rest = await writer.stdout.read()
        await writer.wait()
        whole = rest[: rest.rfind(b"\n") + 1].split()
        acknowledged = max([acknowledged, *map(int, whole)])
        async with opened(path) as store:
            found = await store.get(RUN, "r1")
        assert found is not None
        # One more may have been written and not said.
        assert found.rev - acknowledged in (0, 1)
        assert found.body == {"n": found.rev - 1}
        acknowledged = found.rev


async def test_two_processes_lose_no_increment(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    writers = [await start_writer(path, "r1", 60) for _ in range(2)]
    said = [(await writer.communicate())[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    revs = [int(rev) for words in said for rev in words if rev != b"0"]
    assert sorted(revs) == list(range(1, 122))
    async with opened(path) as store:
        assert await store.get(RUN, "r1") == Record("r1", 121, {"n": 120})


async def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        pass
    execute(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreError, match="newer Trillium"):
        await SqliteStore(path).open()


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    execute(path, "CREATE TABLE theirs (id)")
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore(path).open()


async def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(StoreError, match="not a database"):
        await SqliteStore(path).open()
    assert path.read_bytes() == b"something else " * 1000


async def test_damaged_file_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        for number in range(50):
            await store.create(RUN, f"r{number}", {"text": "x" * 2000})
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    with pytest.raises(StoreError, match=r"store\.db is no good"):
        async with opened(path) as store:
            await store.list(RUN)


async def test_place_where_no_file_can_be_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no folder"):
        await SqliteStore(tmp_path / "none" / "store.db").open()
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await SqliteStore(tmp_path).open()


async def test_file_that_another_holds_is_unavailable_in_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(60):
            with pytest.raises(StoreUnavailable, match="another program has not ended"):
                await store.create(RUN, "r1", {})
            assert await store.get(RUN, "r1") is None
        other.execute("ROLLBACK")
        other.close()
        await store.create(RUN, "r1", {})


async def test_a_program_that_stands_still_in_a_transaction_makes_no_queue(tmp_path: Path) -> None:
    """Each write waits so long as one would alone, and all go on when the other one is gone."""
    path = tmp_path / "store.db"
    async with opened(path) as store:
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _STANDS_STILL, str(path)), stdout=asyncio.subprocess.PIPE
        )
        assert other.stdout
        assert await other.stdout.readline() == b"in the middle\n"
        try:
            async with asyncio.timeout(60):
                writes = (store.create(RUN, f"r{n}", {}) for n in range(100))
                outcomes = await asyncio.gather(*writes, return_exceptions=True)
            assert {type(each) for each in outcomes} == {StoreUnavailable}
            assert "another program has not ended its write" in str(outcomes[0])
            assert await store.list(RUN) == []
        finally:
            other.send_signal(signal.SIGCONT)
            await other.wait()
        await store.create(RUN, "r1", {})
        assert [each.id for each in await store.list(RUN)] == ["r1"]


_STANDS_STILL = """
import os, signal, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print("in the middle", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
file.execute("ROLLBACK")
"""


async def test_full_disk_is_unavailable_and_undoes_the_write(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as store:
        await store.create(RUN, "r1", {})
        limit = "PRAGMA max_page_count = 1"
        await store._file.write(lambda file: file.execute(limit).fetchone())
        with pytest.raises(StoreUnavailable, match="full"):
            await store.create(RUN, "r2", {"text": "x" * 10**6})
        assert [record.id for record in await store.list(RUN)] == ["r1"]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return self.time


async def test_sweep_removes_what_expired_from_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "store.db", Clock()
    store = SqliteStore(path, clock=clock)
    await store.open()
    for number in range(250):
        await store.create(RUN, f"r{number}", {}, expires=clock.time + timedelta(hours=1))
    assert len(await store.list(RUN)) == 250
    clock.time += timedelta(hours=1)
    assert await store.list(RUN) == []
    assert await store.compare_and_set(RUN, "r1", 1, {}) is None
    await eventually(lambda: execute(path, "SELECT count(*) FROM runs") == [(0,)])
    await store.close()


async def test_watch_does_not_wake_for_other_kinds(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store, opened(tmp_path / "store.db") as other:
        woken = 0

        async def look() -> None:
            nonlocal woken
            async for _ in store.watch(RUN):
                woken += 1

        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look())
            await eventually(lambda: woken > 0)
            await other.create(RUN, "r1", {})
            await eventually(lambda: woken > 1)
            settled = woken
            for number in range(3):
                await other.create(Kind.LEASE, f"l{number}", {})
            leases = store.watch(Kind.LEASE)
            await anext(leases)
            await other.create(Kind.LEASE, "last", {})
            await anext(leases)
            await leases.aclose()
            assert woken <= settled + 1
            looking.cancel()


def execute(path: Path, statement: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()
