"""What changed is read again, and nothing else: however much there is, and however old."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.deployments import reconciler, repository
from controller.deployments.bodies import to_body
from controller.deployments.document import LIVE, Deployment, Instance, InstancePhase, Spec, Target
from controller.deployments.repository import Deployments, Retention
from controller.store.port import Kind, Record, Scalar
from controller.store.records import Followed, Stored
from controller.store.sqlite import SqliteStore
from tests.controller.run_fakes import InProcessRuntime, MovableClock
from tests.controller.serving import Serving, serving_flowers
from tests.waiting import eventually
from trillium.clock import SystemClock

DIGEST = "0" * 64
SPEC = Spec("m", 1, DIGEST, "setosa")


def deployment(id: str, *, ended: bool = False, count: int = 0) -> Deployment:
    now = datetime.now(UTC).replace(microsecond=0)
    phase = InstancePhase.ABSENT if ended else InstancePhase.IDLE
    spec = replace(SPEC, target=Target.ABSENT if ended else Target.CREATED)
    return Deployment(id, spec, (Instance(phase),), now, now, event_count=count)


class Noting(SqliteStore):
    """A real store that notes which deployments are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_ids: list[str] = []
        self._looks, self._count = 0, -1

    def is_quiet(self) -> bool:
        """Whether nothing was read between this look and some before it."""
        same = len(self.read_ids) == self._count
        self._looks, self._count = self._looks + 1 if same else 0, len(self.read_ids)
        return self._looks >= 20

    async def get(self, kind: Kind, id: str) -> Record | None:
        if kind is Kind.DEPLOYMENT:
            self.read_ids.append(id)
        return await super().get(kind, id)

    async def list(
        self,
        kind: Kind,
        *,
        where: Mapping[str, Sequence[Scalar]] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[Record]:
        found = await super().list(kind, where=where, after=after, limit=limit)
        if kind is Kind.DEPLOYMENT:
            self.read_ids += [each.id for each in found]
        return found

    @contextmanager
    def noting(self) -> Iterator[set[str]]:
        """The ids that are read inside the context, after it."""
        self.read_ids.clear()
        seen: set[str] = set()
        yield seen
        seen.update(self.read_ids)


@pytest.mark.parametrize("seed", range(5))
async def test_a_look_finds_what_others_changed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    mine, others = SqliteStore(tmp_path / "s.db"), SqliteStore(tmp_path / "s.db")
    await asyncio.gather(mine.open(), others.open())
    following = Deployments(mine, SystemClock())
    writers = (following, Deployments(others, SystemClock()))
    live = Followed(following, LIVE)
    before: Mapping[str, Stored[Deployment]] = {}
    for count in range(12):
        for _ in range(chance.choice((0, 1, 5, 80))):
            id = f"d{chance.randrange(120)}"
            changed = deployment(id, ended=chance.random() < 0.3, count=count)
            writer = chance.choice(writers)
            stored = await writer.get(id)
            assert await writer.put(id, changed, stored.rev if stored else 0)
        said = await live.look()
        now = {each.id: each async for each in following.all(states=LIVE)}
        assert dict(live.values) == now
        ids = before.keys() | now.keys()
        assert said == {id for id in ids if before.get(id) != now.get(id)}
        before = now
    await asyncio.gather(mine.close(), others.close())


async def test_a_terminated_deployment_goes_at_its_time_and_a_runs_sooner(tmp_path: Path) -> None:
    clock = MovableClock()
    store = SqliteStore(tmp_path / "s.db", clock=clock)
    await store.open()
    records = Deployments(store, clock)
    now = clock.now().replace(microsecond=0)
    for id, run in (("mine", ""), ("runs", "r1")):
        ended = replace(deployment(id, ended=True), run=run, created=now, updated=now)
        assert await records.put(id, ended, 0)
    assert await records.put("live", replace(deployment("live"), updated=now), 0)
    clock.move((repository.KEPT_AFTER_RUN + timedelta(minutes=1)).total_seconds())
    assert [each.id async for each in records.all()] == ["live", "mine"]
    clock.move(Retention().terminated.total_seconds())
    assert [each.id async for each in records.all()] == ["live"]
    shorter = Deployments(store, clock, Retention(terminated=timedelta(minutes=5)))
    ended = replace(deployment("brief", ended=True), updated=clock.now().replace(microsecond=0))
    assert await shorter.put("brief", ended, 0)
    clock.move(301)
    assert [each.id async for each in shorter.all()] == ["live"]
    await store.close()


async def test_what_an_older_release_left_without_a_time_goes(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    for id, updated in (("old", long_ago), ("new", datetime.now(UTC).replace(microsecond=0))):
        ended = replace(deployment(id, ended=True), updated=updated)
        await store.create(Kind.DEPLOYMENT, id, to_body(ended))
    await store.close()
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:

        async def is_gone() -> bool:
            return await up.all_ids() == ["new"]

        await eventually(is_gone)


async def test_one_that_begins_anew_stays(tmp_path: Path) -> None:
    clock = MovableClock()
    async with serving_flowers(tmp_path, clock=clock) as up:
        await up.create("d1")
        await up.terminate("d1")
        await up.create("d1")
        clock.move(2 * Retention().terminated.total_seconds())
        assert await up.all_ids() == ["d1"]


async def loaded(up: Serving, *ids: str) -> None:
    await asyncio.gather(*(up.load(id, model="flowers") for id in ids))


async def test_what_has_ended_is_not_read_for_a_change(tmp_path: Path) -> None:
    store = Noting(tmp_path / "store.db")
    runtime = InProcessRuntime()
    async with serving_flowers(tmp_path, store=store, runtime=runtime) as up:
        kept = Deployments(store, SystemClock())
        for number in range(30):
            id = f"old{number}"
            assert await kept.put(id, deployment(id, ended=True), 0)
        with store.noting() as read:
            await loaded(up, "new")
            await up.terminate("new")
        assert read == {"new"}


async def test_one_death_concerns_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "ROUND_S", 3600.0)
    store = Noting(tmp_path / "store.db")
    runtime = InProcessRuntime()
    async with serving_flowers(tmp_path, store=store, runtime=runtime) as up:
        ids = [f"d{number}" for number in range(8)]
        await loaded(up, *ids)
        await eventually(store.is_quiet)
        with store.noting() as read:
            (container,) = await up.containers_of("d3")
            await runtime.remove(container.id)

            async def is_whole() -> bool:
                (instance,) = (await up.get("d3")).instances
                return bool(instance.attempt == 2 and instance.model_digest)

            await eventually(is_whole)
        assert read == {"d3"}
