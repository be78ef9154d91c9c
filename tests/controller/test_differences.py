"""Differences between snapshots lead to the later snapshot, whatever has changed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.discovery import snapshot as snapshots
from controller.discovery.snapshot import (
    Difference,
    PublishedEndpoint,
    Snapshot,
    difference,
    joined,
)
from tests.controller.run_fakes import InProcessRuntime
from tests.controller.serving import CALL_S, Serving, serving_flowers
from trillium.controller.v1 import discovery_service_pb2 as pb

_ENDPOINTS = st.lists(
    st.builds(
        PublishedEndpoint,
        ensemble=st.sampled_from(["iris", "wine"]),
        class_position=st.integers(0, 1),
        class_label=st.sampled_from(["a", "b"]),
        address=st.sampled_from(["h:1", "h:2", "h:3"]),
        digest=st.sampled_from(["x", "y"]),
        deployment=st.sampled_from(["d1", "d2"]),
    ),
    unique_by=lambda each: each.key,
    max_size=6,
).map(lambda found: tuple(sorted(found)))


def applied(
    endpoints: tuple[PublishedEndpoint, ...], news: Difference, ensemble: str
) -> set[PublishedEndpoint]:
    """What a watcher of an ensemble has after the difference, as it is told of it."""
    known = {each.key: each for each in endpoints if each.ensemble == ensemble}
    for each in news.withdrawn:
        if each.ensemble == ensemble:
            known.pop(each.key, None)
    known |= {each.key: each for each in news.endpoints if each.ensemble == ensemble}
    return set(known.values())


@given(st.lists(_ENDPOINTS, min_size=2, max_size=5), st.sampled_from(["iris", "wine"]))
def test_differences_lead_to_the_last_snapshot(
    series: list[tuple[PublishedEndpoint, ...]], ensemble: str
) -> None:
    shown = [Snapshot(number, each) for number, each in enumerate(series)]
    steps = [difference(old, new) for old, new in itertools.pairwise(shown)]
    whole = steps[0]
    for each in steps[1:]:
        whole = joined(whole, each)
    assert (whole.base, whole.revision) == (0, len(series) - 1)
    wanted = {each for each in series[-1] if each.ensemble == ensemble}
    assert applied(series[0], whole, ensemble) == wanted


def test_a_change_of_one_of_many_is_one() -> None:
    many = tuple(
        PublishedEndpoint("iris", 0, "a", f"h:{number}", "x", f"d{number}") for number in range(999)
    )
    new = (*many[:500], replace(many[500], digest="y"), *many[501:])
    found = difference(Snapshot(1, many), Snapshot(2, new))
    assert found == Difference(1, 2, (), (new[500],))


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving_flowers(tmp_path, runtime=InProcessRuntime()) as up:
        yield up


class Follower:
    """A watcher that puts differences together, and confirms when it is told to."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.news: list[pb.WatchEndpointsResponse] = []
        self.known: dict[str, pb.Endpoint] = {}

    @property
    def deployments(self) -> list[str]:
        return sorted(each.deployment.removeprefix("deployments/") for each in self.known.values())

    async def until(self, *deployments: str) -> None:
        async with asyncio.timeout(CALL_S):
            while self.deployments != sorted(deployments):
                await self.next()

    async def next(self) -> None:
        news = await self._call.read()
        assert news.base_revision in (0, self.news[-1].revision if self.news else 0)
        self.news.append(news)
        if not news.base_revision:
            self.known = {}
        for each in news.withdrawn:
            del self.known[each.address]
        self.known |= {each.address: each for each in news.endpoints}

    async def confirm(self) -> None:
        revision = self.news[-1].revision
        await self._call.write(pb.WatchEndpointsRequest(confirmed_revision=revision))


@asynccontextmanager
async def following(up: Serving, watcher_id: str) -> AsyncIterator[Follower]:
    call = up.discovery.WatchEndpoints(timeout=CALL_S)
    await call.write(pb.WatchEndpointsRequest(watcher_id=watcher_id, takes_differences=True))
    try:
        yield Follower(call)
    finally:
        call.cancel()


async def test_a_watcher_is_told_what_is_different(up: Serving) -> None:
    async with following(up, "w1") as watcher:
        await watcher.until()
        for id in ("d1", "d2"):
            await up.load(id, model="flowers")
        await watcher.until("d1", "d2")
        unloading = asyncio.ensure_future(up.unload("d1"))
        await watcher.until("d2")
        await watcher.confirm()
        await unloading
    first, *others = watcher.news
    assert first.base_revision == 0
    assert all(each.base_revision for each in others[1:])
    assert [len(each.endpoints) for each in others] == [1, 1, 0]
    assert [each.deployment for each in others[-1].withdrawn] == ["deployments/d1"]


async def test_one_that_is_far_behind_gets_a_whole_snapshot(
    up: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await up.load("d1", model="flowers")
    monkeypatch.setattr(snapshots.Discovery, "since", lambda self, revision: None)
    async with following(up, "w1") as watcher:
        await watcher.until("d1")
        await up.load("d2", model="flowers")
        await watcher.until("d1", "d2")
    assert [each.base_revision for each in watcher.news] == [0] * len(watcher.news)


async def test_a_withdrawal_that_is_forgotten_is_still_waited_for(
    up: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of endpoints may be withdrawn while a watcher has not confirmed."""
    monkeypatch.setattr(snapshots, "REMEMBERED", 1)
    monkeypatch.setattr("controller.deployments.lifecycle.DRAIN_LIMIT_S", CALL_S)
    ids = ("d1", "d2", "d3")
    async with following(up, "w1") as watcher:
        for id in ids:
            await up.load(id, model="flowers")
        await watcher.until(*ids)
        await watcher.confirm()
        unloading = [asyncio.ensure_future(up.unload(id)) for id in ids]
        await watcher.until()
        done, _ = await asyncio.wait(unloading, timeout=1.0)
        assert not done
        await watcher.confirm()
        async with asyncio.timeout(CALL_S):
            await asyncio.gather(*unloading)
