"""A defect in a background task is logged with the task's name, and its work goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc import aio

from aggregator.plans.resolving import HostName
from aggregator.plans.roster import Endpoint
from aggregator.plans.watching import Watcher
from tests.aggregator.fakes import FakePredictor
from tests.aggregator.serving import aggregating, no_task_left
from tests.waiting import eventually
from trillium.rpc.channels import link_channel

ROW = [[0.5, 0.25, 0.125]]


class Flaw(Exception):
    """What is raised by mistake."""


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error."""
    return [record.message for record in caplog.records if record.levelno == logging.ERROR]


@asynccontextmanager
async def serving(fake: FakePredictor) -> AsyncIterator[None]:
    """The fake is up inside the context."""
    await fake.start()
    try:
        yield
    finally:
        await fake.stop()


@pytest.mark.parametrize(
    "flaw", [Flaw("broken"), asyncio.CancelledError()], ids=["raises", "cancelled-from-within"]
)
async def test_a_link_goes_on_after_a_defect(
    flaw: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    flaws = [flaw]

    def open_channel(address: str) -> aio.Channel:
        if flaws:
            raise flaws.pop()
        return link_channel(address)

    fake = FakePredictor()
    async with (
        no_task_left(),
        serving(fake),
        aggregating(fake.endpoint, open_channel=open_channel) as served,
    ):
        assert (await served.scores(ROW)).shape == (1, 1)
    assert errors(caplog) == ["link failed"]


class Resolver:
    """Resolves every name to one predictor, after it has raised what it should not."""

    def __init__(self, fake: FakePredictor) -> None:
        self._fake = fake
        self._flaws = [Flaw("broken")]

    async def look_up(self, name: HostName) -> frozenset[str]:
        if self._flaws:
            raise self._flaws.pop()
        return frozenset({self._fake.address})


async def test_a_name_is_resolved_again_after_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakePredictor()
    named = Endpoint("a", "predictor-a:50061")
    resolver = Resolver(fake)
    async with no_task_left(), serving(fake), aggregating(named, resolver=resolver) as served:
        assert (await served.scores(ROW)).shape == (1, 1)
    assert errors(caplog) == ["background task failed: resolver of predictor-a"]


async def test_a_watch_goes_on_after_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    channels = 0

    def open_channel(address: str) -> aio.Channel:
        nonlocal channels
        channels += 1
        if channels == 1:
            raise Flaw
        return link_channel(address)

    fake = FakePredictor()
    async with no_task_left(), serving(fake), aggregating(fake.endpoint) as served:
        follow = served.aggregator.ensembles.follow
        watcher = Watcher("127.0.0.1:9", follow, ensemble="", open_channel=open_channel)
        async with watcher.running():
            await eventually(lambda: channels > 1)
    assert errors(caplog) == ["background task failed: watch of the controller"]
