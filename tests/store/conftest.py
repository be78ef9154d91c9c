"""The stores that the contract suite runs against."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from pymongo import MongoClient

from controller.store.mongo import MongoStore
from controller.store.port import Store
from controller.store.sqlite import SqliteStore
from tests.store.mongod import Mongod, given_server

pytest.register_assert_rewrite(
    "tests.store.contract", "tests.store.contract_logs", "tests.store.contract_watch"
)

PATIENCE_S = 60.0
"""How long a call may take on a machine that many share."""

MakeStore: TypeAlias = Callable[[], Store]
"""Makes one more store on the same data, not yet open; the fixture closes it."""


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a server that is no replica set."""
    yield from _server(tmp_path_factory.mktemp("standalone"), replica_set=False)


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a replica set of one."""
    yield from _server(tmp_path_factory.mktemp("replica-set"), replica_set=True)


def _server(folder: Path, *, replica_set: bool) -> Iterator[str]:
    given = given_server()
    if given and given[1] is replica_set:
        yield given[0]
        return
    with Mongod(folder, replica_set=replica_set) as mongod:
        yield mongod.uri


@pytest.fixture(scope="session")
def database() -> str:
    """A name for this run; one for all tests, because making its collections takes a while."""
    return f"trillium-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["sqlite", "mongodb-standalone", "mongodb-replica-set"])
async def make_store(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> AsyncIterator[MakeStore]:
    """Stores on data that are empty."""
    stores: list[Store] = []
    uri = ""
    if request.param != "sqlite":
        uri = request.getfixturevalue(request.param.removeprefix("mongodb-").replace("-", "_"))

    def make() -> Store:
        stores.append(
            MongoStore(uri, database=database, call_timeout_s=PATIENCE_S)
            if uri
            else SqliteStore(tmp_path / "store.db")
        )
        return stores[-1]

    yield make
    for store in stores:
        await store.close()
    if uri:
        _empty(uri, database)


@pytest.fixture
async def store(make_store: MakeStore) -> Store:
    """An open store without data."""
    made = make_store()
    await made.open()
    return made


def _empty(uri: str, name: str) -> None:
    client: MongoClient[dict[str, object]] = MongoClient(uri)
    try:
        for collection in client[name].list_collection_names():
            client[name][collection].delete_many({})
    finally:
        client.close()


@pytest.fixture(scope="session", autouse=True)
def _dropped(request: pytest.FixtureRequest, database: str) -> Iterator[None]:
    """Leaves nothing behind on a server that was given."""
    yield
    given = given_server()
    if given:
        client: MongoClient[dict[str, object]] = MongoClient(given[0])
        client.drop_database(database)
        client.close()
