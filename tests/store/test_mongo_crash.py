"""A MongoDB that is killed, stopped in its tracks, or answers nothing, and what the store makes of
it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
from pymongo.errors import WriteError

from controller.store.mongo import MongoStore
from controller.store.port import AlreadyThere, Entry, Kind, Log, Record, StoreUnavailable
from tests.store.lossy_proxy import LossyProxy
from tests.store.mongod import Mongod
from tests.waiting import eventually

EMPTY = hashlib.sha256().hexdigest()
RUN = Kind.RUN
CALL_S = 4.0


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, marks=pytest.mark.thorough), True],
    ids=["standalone", "replica-set"],
)
def mongod(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mongod]:
    """A server of this file's own, which its tests may hurt."""
    with Mongod(tmp_path_factory.mktemp("mongod"), replica_set=request.param) as mongod:
        yield mongod


@asynccontextmanager
async def opened(uri: str, database: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(uri, database=database, call_timeout_s=CALL_S)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(mongod: Mongod) -> AsyncIterator[MongoStore]:
    """An open store on a database of the test's own."""
    async with opened(mongod.uri, f"test-{uuid.uuid4().hex[:12]}") as store:
        yield store


class Writer:
    """Creates records, counts one of its own up, and keeps what was acknowledged."""

    def __init__(self, store: MongoStore, name: str) -> None:
        self._store = store
        self.name = name
        self.rev = 0
        self.created: list[str] = []
        self.interrupted = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._step()
            except StoreUnavailable:
                self.interrupted += 1
                await asyncio.sleep(0.02)

    async def _step(self) -> None:
        found = await self._store.get(RUN, self.name)
        read = found.rev if found else 0
        assert read >= self.rev, f"{self.name} went from {self.rev} back to {read}"
        if found is None:
            done: Record | None = await self._store.create(RUN, self.name, {"rev": 1})
        else:
            assert found.body == {"rev": read}
            done = await self._store.compare_and_set(RUN, self.name, read, {"rev": read + 1})
        assert done is not None, f"{self.name} is its only writer's"
        self.rev = done.rev
        made = f"{self.name}-{self.rev}"
        await self._store.create(Kind.REQUEST, made, {})
        self.created.append(made)


async def test_killed_server_loses_nothing_and_work_resumes(
    mongod: Mongod, store: MongoStore
) -> None:
    writers = [Writer(store, f"w{number}") for number in range(8)]
    stop = asyncio.Event()

    async def all_are_past(revs: dict[str, int]) -> bool:
        return all(writer.rev > revs[writer.name] for writer in writers)

    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.run(stop))
        for kill in range(2):
            revs = {writer.name: writer.rev + 5 * kill + 5 for writer in writers}
            await eventually(lambda revs=revs: all_are_past(revs), 60)  # type: ignore[misc]
            before = {writer.name: writer.interrupted for writer in writers}
            mongod.kill()
            await eventually(
                lambda before=before: all(each.interrupted > before[each.name] for each in writers),  # type: ignore[misc]
                60,
            )
            mongod.start()
        revs = {writer.name: writer.rev for writer in writers}
        await eventually(lambda: all_are_past(revs), 60)
        stop.set()

    for writer in writers:
        found = await store.get(RUN, writer.name)
        assert found is not None
        assert found.rev >= writer.rev
    there = set[str]()
    while page := await store.list(Kind.REQUEST, after=max(there, default="")):
        there |= {record.id for record in page}
    lost = {made for writer in writers for made in writer.created} - there
    assert lost == set()


async def test_lost_answer_to_what_was_done_is_success(mongod: Mongod, store: MongoStore) -> None:
    async with LossyProxy(mongod.port).running() as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with opened(uri, store.database) as lossy:
            proxy.lose_next_answer_to("insert")
            assert await lossy.create(RUN, "r1", {"n": 1}) == Record("r1", 1, {"n": 1})
            proxy.lose_next_answer_to("update")
            done = await lossy.compare_and_set(RUN, "r1", 1, {"n": 2})
            assert done == Record("r1", 2, {"n": 2})
            proxy.lose_next_answer_to("insert")
            await lossy.append(Log.EVENT, "r1", 1, {"n": 1})
            assert proxy.lost == 3
    assert await store.get(RUN, "r1") == done
    assert await store.read(Log.EVENT, "r1", limit=9) == [Entry(1, {"n": 1})]


async def test_lost_answer_to_what_was_not_done_is_no_success(
    mongod: Mongod, store: MongoStore
) -> None:
    """A replica set lets the driver try again; nobody may on a standalone."""
    await store.create(RUN, "r1", {"n": 1})
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "insert": lambda: store.create(RUN, "r2", {}),
        "update": lambda: store.compare_and_set(RUN, "r1", 1, {"n": 2}),
        "delete": lambda: store.delete(RUN, "r1", 2 if mongod.replica_set else 1),
    }
    for command, call in calls.items():
        with mongod.failing([command], 1, closeConnection=True):
            if mongod.replica_set:
                assert await call()
            else:
                with pytest.raises(StoreUnavailable):
                    await call()
    there = {record.id: record.rev for record in await store.list(RUN)}
    assert there == ({"r2": 1} if mongod.replica_set else {"r1": 1})


@pytest.mark.parametrize("code", [64, 91])
async def test_write_without_its_majority_is_looked_for(
    mongod: Mongod, store: MongoStore, code: int
) -> None:
    concern = {"writeConcernError": {"code": code, "errmsg": "no majority"}}
    with mongod.failing(["insert"], 1, **concern):
        await store.create(RUN, "r1", {})
    with mongod.failing(["update"], 1, **concern):
        assert await store.compare_and_set(RUN, "r1", 1, {"n": 2}) == Record("r1", 2, {"n": 2})


async def test_write_that_gets_no_majority_is_not_acknowledged(
    mongod: Mongod, store: MongoStore
) -> None:
    await store.create(RUN, "r1", {})
    concern = {"writeConcernError": {"code": 64, "errmsg": "no majority"}}
    with mongod.failing(["update"], 9, **concern), pytest.raises(StoreUnavailable, match="major"):
        await store.compare_and_set(RUN, "r1", 1, {"n": 2})

    async def is_done_all_the_same() -> bool:
        return await store.get(RUN, "r1") == Record("r1", 2, {"n": 2})

    await eventually(is_done_all_the_same)


async def test_calls_to_a_stopped_server_end_in_time(mongod: Mongod, store: MongoStore) -> None:
    await store.create(RUN, "r1", {})
    calls = {
        "get": lambda: store.get(RUN, "r1"),
        "list": lambda: store.list(RUN),
        "create": lambda: store.create(RUN, "r2", {}),
        "compare_and_set": lambda: store.compare_and_set(RUN, "r1", 1, {}),
        "append": lambda: store.append(Log.EVENT, "r1", 1, {}),
        "put_blob": lambda: store.put_blob(EMPTY, b""),
    }

    async def fails_within(limit_s: float, call: Callable[[], Awaitable[object]]) -> None:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            await call()
        assert "127.0.0.1" in str(raised.value)
        assert time.monotonic() - begun < limit_s + 15

    mongod.pause()
    try:
        await asyncio.gather(
            fails_within(2, store.ping), *(fails_within(CALL_S, call) for call in calls.values())
        )
    finally:
        mongod.resume()

    async def answers() -> bool:
        try:
            await store.ping()
        except StoreUnavailable:
            return False
        return True

    await eventually(answers)
    found = await store.get(RUN, "r1")
    assert found is not None
    assert found.rev in (1, 2)


async def test_watch_survives_a_restart(mongod: Mongod, store: MongoStore) -> None:
    seen = -1

    async def look() -> None:
        nonlocal seen
        async with aclosing(store.watch(RUN)) as watch:
            async for _ in watch:
                with contextlib.suppress(StoreUnavailable):
                    found = await store.get(RUN, "r1")
                    seen = found.rev if found else 0

    async with opened(mongod.uri, store.database) as writer, asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        await eventually(lambda: seen == 0)
        mongod.kill()
        mongod.start()
        await eventually(lambda: _works(writer.create(RUN, "r1", {})))
        await eventually(lambda: seen == 1)
        await writer.compare_and_set(RUN, "r1", 1, {})
        await eventually(lambda: seen == 2)
        looking.cancel()


async def test_documents_that_are_no_records_are_refused_by_the_server(
    mongod: Mongod, store: MongoStore
) -> None:
    with mongod.admin() as client, pytest.raises(WriteError, match="validation"):
        client[store.database][RUN.value].insert_one({"_id": "r1", "rev": 0})


async def test_validator_of_an_older_version_is_mended(mongod: Mongod, store: MongoStore) -> None:
    with mongod.admin() as client:
        database = client[store.database]
        database.command("collMod", RUN.value, validator={})
        async with opened(mongod.uri, store.database):
            (found,) = database.list_collections(filter={"name": RUN.value})
        assert "$jsonSchema" in found["options"]["validator"]
        assert {"by_state", "by_model", "expires"} < set(database[RUN.value].index_information())


async def _works(call: Awaitable[object]) -> bool:
    try:
        await call
    except StoreUnavailable:
        return False
    except AlreadyThere:
        return True
    return True
