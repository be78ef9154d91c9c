"""A whole ensemble in this process, and both clients behind one face."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.trained import trained
from tests.waiting import eventually
from trillium import AsyncClient, Client, Predictions

LABELS = ("setosa", "versicolor", "virginica")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained iris models."""
    return trained(tmp_path_factory, "iris")


@dataclass(frozen=True, slots=True)
class Ensemble:
    """An aggregator before the three iris predictors."""

    address: str
    predictors: dict[str, AsyncExitStack]
    all_ready: Callable[[], bool]

    async def lose(self, label: str) -> None:
        """Stop the predictor of a class, and wait until the aggregator knows."""
        await self.predictors[label].aclose()
        await eventually(lambda: not self.all_ready())


@asynccontextmanager
async def running_ensemble(models: Path) -> AsyncIterator[Ensemble]:
    """An ensemble that is up."""
    async with AsyncExitStack() as stack:
        endpoints, predictors = [], {}
        for label in LABELS:
            predictors[label] = await stack.enter_async_context(AsyncExitStack())
            config = PredictorConfig(listen="127.0.0.1:0", model=models / f"iris-{label}.onnx")
            running = await predictors[label].enter_async_context(running_predictor(config))
            endpoints.append(Endpoint(label, running.address))
        aggregator = await stack.enter_async_context(
            running_aggregator(AggregatorConfig(tuple(endpoints), listen="127.0.0.1:0"))
        )
        await eventually(aggregator.roster.all_ready)
        yield Ensemble(aggregator.address, predictors, aggregator.roster.all_ready)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ensemble(models: Path) -> AsyncIterator[Ensemble]:
    """One for all tests of a module, which leave it whole."""
    async with running_ensemble(models) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def fragile(models: Path) -> AsyncIterator[Ensemble]:
    """One for a test that breaks it."""
    async with running_ensemble(models) as running:
        yield running


class Caller:
    """One of the clients. The blocking one works in a thread, as the servers are in this loop."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method that answers once."""
        call = getattr(self._client, method)
        if isinstance(self._client, AsyncClient):
            return await call(*arguments, **options)
        return await asyncio.to_thread(call, *arguments, **options)

    async def stream(self, batches: Iterable[Any], **options: Any) -> AsyncIterator[Predictions]:
        """What predict_stream answers, as it comes."""
        if isinstance(self._client, AsyncClient):
            async with contextlib.aclosing(self._client.predict_stream(batches, **options)) as all_:
                async for each in all_:
                    yield each
            return
        answers = self._client.predict_stream(batches, **options)
        while (answer := await asyncio.to_thread(next, answers, None)) is not None:
            yield answer


@pytest.fixture(params=["Client", "AsyncClient"])
def calling(request: pytest.FixtureRequest) -> Any:
    """Opens a `Caller` of an address: each test runs with both clients."""

    @asynccontextmanager
    async def open_caller(address: str, **options: Any) -> AsyncIterator[Caller]:
        if request.param == "AsyncClient":
            async with AsyncClient(address, **options) as client:
                yield Caller(client)
        else:
            with Client(address, **options) as blocking:
                yield Caller(blocking)

    return open_caller


@pytest_asyncio.fixture(loop_scope="module")
async def caller(calling: Any, ensemble: Ensemble) -> AsyncIterator[Caller]:
    """A caller of `ensemble`."""
    async with calling(ensemble.address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def fragile_caller(calling: Any, fragile: Ensemble) -> AsyncIterator[Caller]:
    """A caller of `fragile`."""
    async with calling(fragile.address) as opened:
        yield opened
