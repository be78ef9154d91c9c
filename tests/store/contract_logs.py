"""What every store does with logs and blobs. Run by test_contract.py against each of them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.store import blobs
from controller.store.port import MAX_BODY_BYTES, AlreadyThere, Entry, Log, Store, TooLarge
from tests.store.conftest import MakeStore
from tests.store.contract import AWKWARD, typed
from tests.waiting import eventually

EVENT, RESULT = Log.EVENT, Log.RESULT


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Logs:
    """append, read."""

    async def test_entries_are_read_in_the_order_of_their_numbers(self, store: Store) -> None:
        for number in (3, 1, 300, 2, 2**40):
            await store.append(EVENT, "runs/r1", number, {"n": number})
        await store.append(EVENT, "runs/r10", 1, {})
        await store.append(EVENT, "runs/r", 1, {})
        await store.append(RESULT, "runs/r1", 4, {})
        found = await store.read(EVENT, "runs/r1", limit=10)
        assert found == [Entry(n, {"n": n}) for n in (1, 2, 3, 300, 2**40)]

    async def test_pages(self, store: Store) -> None:
        for number in range(1, 11):
            await store.append(EVENT, "r", number, {})
        pages = [await store.read(EVENT, "r", after=after, limit=4) for after in (0, 4, 8, 10)]
        assert [[entry.number for entry in page] for page in pages] == [
            [1, 2, 3, 4],
            [5, 6, 7, 8],
            [9, 10],
            [],
        ]

    async def test_same_entry_again_changes_nothing(self, store: Store) -> None:
        await store.append(EVENT, "r", 1, AWKWARD)
        await store.append(EVENT, "r", 1, {key: AWKWARD[key] for key in reversed(list(AWKWARD))})
        (entry,) = await store.read(EVENT, "r", limit=10)
        assert typed(entry.body) == typed(AWKWARD)

    @pytest.mark.parametrize("other", [{"n": 2}, {"n": True}, {"n": 1.0}, {}])
    async def test_other_body_for_a_number_is_refused(self, store: Store, other: Any) -> None:
        await store.append(EVENT, "r", 1, {"n": 1})
        with pytest.raises(AlreadyThere, match="entry 1"):
            await store.append(EVENT, "r", 1, other)
        (entry,) = await store.read(EVENT, "r", limit=10)
        assert typed(entry.body) == typed({"n": 1})

    async def test_one_of_many_bodies_is_accepted(self, make_store: MakeStore) -> None:
        stores = [make_store() for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))

        async def append(task: int) -> int | None:
            try:
                await stores[task % 2].append(EVENT, "r", 1, {"by": task // 4})
            except AlreadyThere:
                return None
            return task // 4

        accepted = set(await asyncio.gather(*map(append, range(16)))) - {None}
        (entry,) = await stores[0].read(EVENT, "r", limit=10)
        assert accepted == {entry.body["by"]}

    async def test_bad_entries_are_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="number"):
            await store.append(EVENT, "r", 0, {})
        with pytest.raises(ValueError, match="owner"):
            await store.append(EVENT, "", 1, {})
        with pytest.raises(ValueError, match="finite"):
            await store.append(EVENT, "r", 1, {"a": float("inf")})
        with pytest.raises(TooLarge):
            await store.append(EVENT, "r", 1, {"a": "x" * MAX_BODY_BYTES})
        assert await store.read(EVENT, "r", limit=10) == []

    async def test_expired_entry_goes(self, store: Store) -> None:
        now = datetime.now(UTC)
        await store.append(EVENT, "r", 1, {}, expires=now)
        await store.append(EVENT, "r", 2, {}, expires=now + timedelta(hours=1))

        async def is_dropped() -> bool:
            return [entry.number for entry in await store.read(EVENT, "r", limit=9)] == [2]

        await eventually(is_dropped)

    async def test_a_dropped_log_is_empty_and_others_stay(self, store: Store) -> None:
        for owner in ("r", "r/2", "q"):
            for number in range(1, 250):
                await store.append(RESULT, owner, number, {"n": number})
        await store.append(EVENT, "r", 1, {})
        await store.drop_log(RESULT, "r")
        await store.drop_log(RESULT, "r")
        assert await store.read(RESULT, "r", limit=9) == []
        assert len(await store.read(RESULT, "r/2", limit=999)) == 249
        assert len(await store.read(RESULT, "q", limit=999)) == 249
        assert len(await store.read(EVENT, "r", limit=9)) == 1


class Blobs:
    """put_blob, get_blob, blobs, expire_blob."""

    @pytest.mark.parametrize(
        "size", [0, 1, blobs.CHUNK_BYTES - 1, blobs.CHUNK_BYTES, blobs.CHUNK_BYTES + 1, 40_000_000]
    )
    async def test_bytes_come_back(self, store: Store, size: int) -> None:
        content = random.Random(size).randbytes(size)
        assert await store.get_blob(digest_of(content)) is None
        await store.put_blob(digest_of(content), content)
        assert await store.get_blob(digest_of(content)) == content

    async def test_put_again_and_at_once(self, make_store: MakeStore) -> None:
        content = random.Random(1).randbytes(9_000_000)
        stores = [make_store() for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))
        putting = (stores[task % 2].put_blob(digest_of(content), content) for task in range(4))
        await asyncio.gather(*putting)
        await stores[0].put_blob(digest_of(content), content)
        assert await stores[1].get_blob(digest_of(content)) == content

    async def test_interrupted_put_leaves_nothing_to_read_and_can_be_repeated(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = random.Random(2).randbytes(3 * blobs.CHUNK_BYTES)

        def interrupted(content: bytes) -> Iterator[memoryview]:
            yield from list(all_chunks(content))[:2]
            raise KeyError("interrupted")

        all_chunks = blobs.chunks
        with monkeypatch.context() as patch:
            patch.setattr(blobs, "chunks", interrupted)
            with pytest.raises(KeyError):
                await store.put_blob(digest_of(content), content)
        assert await store.get_blob(digest_of(content)) is None
        await store.put_blob(digest_of(content), content)
        assert await store.get_blob(digest_of(content)) == content

    async def test_cancelled_put_leaves_nothing_or_all(self, store: Store) -> None:
        content = random.Random(3).randbytes(2 * blobs.CHUNK_BYTES)
        putting = asyncio.create_task(store.put_blob(digest_of(content), content))
        await store.get_blob("0" * 64)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        assert await store.get_blob(digest_of(content)) in (None, content)

    async def test_wrong_digest_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="SHA-256"):
            await store.put_blob(digest_of(b"a"), b"b")
        assert await store.get_blob(digest_of(b"a")) is None
        with pytest.raises(ValueError, match="64"):
            await store.put_blob(digest_of(b"a").upper(), b"a")
        with pytest.raises(ValueError, match="64"):
            await store.get_blob("../x")

    async def test_a_blob_is_there_until_it_expires_and_may_be_kept(self, store: Store) -> None:
        content = random.Random(4).randbytes(2 * blobs.CHUNK_BYTES)
        digest = digest_of(content)
        until = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
        await store.expire_blob(digest, until)
        assert await store.blobs() == {}
        await store.put_blob(digest, content)
        assert await store.blobs() == {digest: None}
        for keep in (store.put_blob(digest, content), store.expire_blob(digest, None)):
            await store.expire_blob(digest, until)
            assert await store.blobs() == {digest: until}
            assert await store.get_blob(digest) == content
            await keep
            assert await store.blobs() == {digest: None}
        assert await store.get_blob(digest) == content

    async def test_an_expired_blob_is_gone_and_can_be_put_again(self, store: Store) -> None:
        content, other = (random.Random(n).randbytes(2 * blobs.CHUNK_BYTES) for n in (5, 6))
        digest = digest_of(content)
        for each in (content, other):
            await store.put_blob(digest_of(each), each)
        for _ in range(2):
            await store.expire_blob(digest, datetime.now(UTC) - timedelta(seconds=1))
            assert await store.get_blob(digest) is None
            # It cannot be kept any more.
            await store.expire_blob(digest, None)
            assert await store.blobs() == {digest_of(other): None}
            await store.put_blob(digest, content)
            assert await store.get_blob(digest) == content
        assert await store.get_blob(digest_of(other)) == other

    async def test_blobs_come_in_pages(self, store: Store) -> None:
        digests = sorted(digest_of(bytes([number])) for number in range(7))
        for number in range(7):
            await store.put_blob(digest_of(bytes([number])), bytes([number]))
        assert list(await store.blobs(limit=3)) == digests[:3]
        assert list(await store.blobs(after=digests[2])) == digests[3:]
        with pytest.raises(ValueError, match="limit"):
            await store.blobs(limit=1001)
