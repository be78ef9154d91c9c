"""What every store does about watching, closing and cancelling. Run by test_contract.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from controller.store.port import Kind, Record, Store, StoreUnavailable
from tests.store.conftest import MakeStore
from tests.waiting import eventually

RUN, LEASE = Kind.RUN, Kind.LEASE


@asynccontextmanager
async def reading(
    woken: Callable[[], None], watch: AsyncGenerator[None, None]
) -> AsyncIterator[None]:
    """Calls `woken` each time that the watch yields, beside what is done inside."""

    async def read() -> None:
        async with aclosing(watch):
            async for _ in watch:
                woken()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(read())
        yield
        task.cancel()


class Watching:
    """watch."""

    async def test_wakes_once_at_once(self, store: Store) -> None:
        async with asyncio.timeout(60), aclosing(store.watch(RUN)) as watch:
            await anext(watch)

    @pytest.mark.parametrize("by_another", [False, True])
    async def test_wakes_for_every_kind_of_change(
        self, make_store: MakeStore, by_another: bool
    ) -> None:
        watched, other = make_store(), make_store()
        await watched.open()
        await other.open()
        writer = other if by_another else watched
        seen: list[list[Record]] = []
        news = asyncio.Event()

        async def look() -> None:
            async with aclosing(watched.watch(RUN, LEASE)) as watch:
                async for _ in watch:
                    seen.append(list(await watched.list(RUN)))
                    news.set()

        async def sees(*expected: Record) -> None:
            async with asyncio.timeout(60):
                while not seen or seen[-1] != list(expected):
                    news.clear()
                    await news.wait()

        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look())
            await sees()
            made = await writer.create(RUN, "r1", {"n": 1})
            await sees(made)
            changed = await writer.compare_and_set(RUN, "r1", 1, {"n": 2})
            assert changed
            await sees(changed)
            await writer.delete(RUN, "r1", 2)
            await sees()
            looking.cancel()

    async def test_last_of_many_changes_is_never_missed(self, make_store: MakeStore) -> None:
        watched, writer = make_store(), make_store()
        await watched.open()
        await writer.open()
        last = 0

        async def look() -> None:
            nonlocal last
            async with aclosing(watched.watch(RUN)) as watch:
                async for _ in watch:
                    found = await watched.get(RUN, "r1")
                    last = found.rev if found else 0

        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look())
            await writer.create(RUN, "r1", {})
            for target in (5, 12, 30):
                for rev in range((await _rev(writer)), target):
                    await writer.compare_and_set(RUN, "r1", rev, {})
                await eventually(lambda target=target: last == target)  # type: ignore[misc]
            looking.cancel()

    async def test_many_watches_and_ending_some(self, store: Store) -> None:
        woken = [0, 0]

        def count(which: int) -> Callable[[], None]:
            def add() -> None:
                woken[which] += 1

            return add

        async with reading(count(0), store.watch()):
            async with reading(count(1), store.watch(RUN)):
                await eventually(lambda: min(woken) > 0)
            ended = woken[1]
            before = woken[0]
            await store.create(RUN, "r1", {})
            await eventually(lambda: woken[0] > before)
            assert woken[1] == ended

    async def test_closing_the_store_ends_a_watch(self, store: Store) -> None:
        watch = store.watch(RUN)
        await anext(watch)
        ended = asyncio.create_task(_drain(watch))
        await store.close()
        async with asyncio.timeout(60):
            with pytest.raises(StoreUnavailable):
                await ended


class Ending:
    """open, close, ping and cancellation."""

    async def test_ping(self, store: Store) -> None:
        await store.ping()

    async def test_closed_store_is_unavailable_and_can_be_opened_again(self, store: Store) -> None:
        await store.create(RUN, "r1", {})
        await store.close()
        await store.close()
        for call in (store.get(RUN, "r1"), store.create(RUN, "r2", {}), store.ping()):
            with pytest.raises(StoreUnavailable, match="closed"):
                await call
        await store.open()
        assert len(await store.list(RUN)) == 1
        async with asyncio.timeout(60), aclosing(store.watch(RUN)) as watch:
            await anext(watch)

    async def test_close_while_calls_are_running(self, make_store: MakeStore) -> None:
        store, after = make_store(), make_store()
        await store.open()
        calls = [asyncio.create_task(store.create(RUN, f"r{n}", {})) for n in range(40)]
        reads = [asyncio.create_task(store.list(RUN)) for _ in range(10)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await store.close()
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*calls, return_exceptions=True)
            others = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(end, Record | StoreUnavailable) for end in ends)
        assert all(isinstance(end, list | StoreUnavailable) for end in others)
        await after.open()
        there = {record.id for record in await after.list(RUN)}
        assert {end.id for end in ends if isinstance(end, Record)} <= there

    async def test_cancelled_calls_end_at_once_and_harm_nothing(self, store: Store) -> None:
        await store.create(RUN, "r1", {"n": 0})
        for round in range(12):
            rev = await _rev(store)
            tasks = [
                asyncio.create_task(store.compare_and_set(RUN, "r1", rev, {"n": rev})),
                asyncio.create_task(store.create(LEASE, f"l{round}", {})),
                asyncio.create_task(store.get(RUN, "r1")),
            ]
            for _ in range(round):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            async with asyncio.timeout(60):
                await asyncio.gather(*tasks, return_exceptions=True)
            found = await store.get(RUN, "r1")
            assert found is not None
            assert found.rev in (rev, rev + 1)
        rev = await _rev(store)
        while (done := await store.compare_and_set(RUN, "r1", rev, {"n": -1})) is None:
            rev = await _rev(store)  # A cancelled one came later.
        assert (await store.get(RUN, "r1")) == done


async def _drain(watch: AsyncGenerator[None, None]) -> None:
    async for _ in watch:
        pass


async def _rev(store: Store) -> int:
    found = await store.get(RUN, "r1")
    assert found is not None
    return found.rev
