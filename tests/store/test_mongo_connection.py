"""Users, passwords, TLS, and what is said when they are wrong."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest

from controller.store.mongo import MongoStore
from controller.store.port import Kind, StoreError, StoreUnavailable
from tests.store.mongod import PASSWORD, QUOTED_PASSWORD, USER, Mongod


@pytest.fixture(scope="module", params=[False, True], ids=["standalone", "replica-set"])
def mongod(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mongod]:
    """A server that wants a user, a password and TLS."""
    folder = tmp_path_factory.mktemp("mongod")
    with Mongod(folder, replica_set=request.param, auth=True, tls=True) as mongod:
        yield mongod


def says_no_secret(error: BaseException, *secrets: str) -> bool:
    said = "".join(traceback.format_exception(error))
    return not any(secret in said for secret in (PASSWORD, QUOTED_PASSWORD, *secrets))


async def test_works_with_user_password_and_tls(mongod: Mongod) -> None:
    store = MongoStore(mongod.uri)
    await store.open()
    await store.create(Kind.RUN, "r1", {})
    assert len(await store.list(Kind.RUN)) == 1
    watch = store.watch(Kind.RUN)
    await anext(watch)
    await watch.aclose()
    await store.close()


@pytest.mark.parametrize(
    ("user", "password"), [(USER, "wr0ng-Secret"), ("nobody", "wr0ng-Secret"), ("", "")]
)
async def test_wrong_login_is_unavailable_and_told_without_the_password(
    mongod: Mongod, user: str, password: str
) -> None:
    store = MongoStore(mongod.uri_for(user, password), call_timeout_s=30.0)
    with pytest.raises(StoreUnavailable, match="refuses the user: check name, password") as raised:
        await store.open()
    assert says_no_secret(raised.value, "wr0ng-Secret")
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(Kind.RUN, "r1")


async def test_missing_tls_is_unavailable(mongod: Mongod) -> None:
    plain = f"mongodb://{USER}:{QUOTED_PASSWORD}@127.0.0.1:{mongod.port}/?directConnection=true"
    store = MongoStore(plain, call_timeout_s=2.0)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1") as raised:
        await store.open()
    assert says_no_secret(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://{USER}:{PASSWORD}@127.0.0.1/",
        f"mongodb://{USER}@{QUOTED_PASSWORD}@127.0.0.1/",
        f"mongodb://127.0.0.1:{QUOTED_PASSWORD}/",
        f"mongodb://{USER}:{QUOTED_PASSWORD}@127.0.0.1:none/",
        f"mongodb://{USER}:{QUOTED_PASSWORD}@127.0.0.1/?tls=true&tlsCAFile=/no/such/file",
        f"mongodb://{USER}:{QUOTED_PASSWORD}@127.0.0.1/?tls=maybe",
        f"postgres://{USER}:{QUOTED_PASSWORD}@127.0.0.1/",
        "",
    ],
)
async def test_bad_uri_is_told_without_the_password(uri: str) -> None:
    store = MongoStore(uri)
    with pytest.raises(StoreError, match="the MongoDB URI cannot be used") as raised:
        await store.open()
    assert says_no_secret(raised.value)


async def test_absent_server_is_unavailable_in_time() -> None:
    store = MongoStore("mongodb://127.0.0.1:9/", call_timeout_s=1.0)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        await store.open()
