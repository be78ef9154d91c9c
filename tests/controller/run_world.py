"""All that runs need around them: a store, a runtime, a catalog, and controllers that may die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from controller.deployments.document import State
from controller.deployments.effects import ReconcilerPorts
from controller.deployments.reconciler import Reconciler
from controller.deployments.repository import Deployments
from controller.deployments.verbs import Command, Verb
from controller.failpoints import Failpoints
from controller.predictors import Predictors
from controller.runs.executor import RunExecutor, RunPacing
from controller.runs.orders import RunOrders
from controller.runs.repository import Runs
from controller.runs.results import Result
from controller.runs.run import Order, Run
from controller.runs.work import Patience
from controller.store.port import Store
from controller.store.sqlite import SqliteStore
from tests.controller.run_fakes import (
    Catalog,
    InProcessRuntime,
    MovableClock,
    Scoring,
    WatchedPredictors,
    iris_catalog,
)
from tests.waiting import eventually

QUICK = RunPacing(
    round_s=0.05,
    beat_s=0.05,
    silent_s=0.15,
    sweep_s=0.05,
    trouble_s=0.02,
    patience=Patience(first_pause_s=0.01, longest_pause_s=0.1),
)
CHUNK_ROWS = 10
"""Iris makes 15 chunks."""
ORDER = Order("iris-setosa", 0, "iris", 0, "", 3600.0)


@dataclass
class Controller:
    """The part of a controller that carries out runs."""

    deployments: Deployments
    runs: Runs
    orders: RunOrders
    executor: RunExecutor
    predictors: WatchedPredictors

    async def place(self, id: str = "r1", order: Order = ORDER) -> Run:
        return (await self.orders.place(order, id)).value

    async def ended(self, id: str = "r1") -> Run:
        async with asyncio.timeout(60):
            return (await self.runs.ended(id)).value

    async def get(self, id: str = "r1") -> Run:
        return (await self.runs.found(id)).value


@dataclass
class World:
    """What controllers share."""

    store: Store
    runtime: InProcessRuntime
    clock: MovableClock
    catalog: Catalog
    deployments: Deployments
    stack: AsyncExitStack = field(repr=False)

    def controller(
        self,
        failpoints: Failpoints | None = None,
        *,
        scoring: Scoring | None = None,
        at_once: int = 4,
        pacing: RunPacing = QUICK,
        make_runs: type[Runs] = Runs,
    ) -> Controller:
        """One more controller on the store, which does not carry out anything yet."""
        failpoints = failpoints or Failpoints({})
        deployments = Deployments(self.store, self.clock)
        runs = make_runs(self.store, deployments, self.clock, failpoints)
        orders = RunOrders(runs, deployments, self.catalog, chunk_rows=CHUNK_ROWS)
        predictors = WatchedPredictors(scoring)
        self.stack.push_async_callback(predictors.close)
        executor = RunExecutor(
            runs,
            deployments,
            predictors,
            self.catalog,
            self.clock,
            failpoints,
            at_once=at_once,
            pacing=pacing,
        )
        return Controller(deployments, runs, orders, executor, predictors)

    @asynccontextmanager
    async def working(
        self,
        failpoints: Failpoints | None = None,
        *,
        scoring: Scoring | None = None,
        at_once: int = 4,
        pacing: RunPacing = QUICK,
        make_runs: type[Runs] = Runs,
    ) -> AsyncIterator[Controller]:
        """A controller that carries out runs inside the context."""
        controller = self.controller(
            failpoints, scoring=scoring, at_once=at_once, pacing=pacing, make_runs=make_runs
        )
        following = asyncio.create_task(controller.deployments.follow())
        try:
            async with controller.executor.running():
                yield controller
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def loaded(self, id: str, model: str = "iris-setosa") -> None:
        """Have a deployment of the newest version of a model loaded."""
        spec = (await self.catalog.model_version(model, 0)).spec
        await self.deployments.apply(Command(Verb.LOAD, id, spec))
        await eventually(lambda: self.is_in(id, State.LOADED))

    async def is_in(self, id: str, state: State) -> bool:
        stored = await self.deployments.get(id)
        return stored is not None and stored.value.state is state

    async def is_bare(self) -> bool:
        """Whether no container is left, and no deployment but terminated ones."""
        states = [stored.value.state async for stored in self.deployments.all()]
        return not await self.runtime.look() and set(states) <= {State.TERMINATED}


@asynccontextmanager
async def open_world(folder: Path, store: Store | None = None) -> AsyncIterator[World]:
    """A store with a runtime and a reconciler at work, and no run yet."""
    async with AsyncExitStack() as stack:
        store = store or SqliteStore(folder / "store.db")
        await store.open()
        stack.push_async_callback(store.close)
        runtime, clock, catalog = InProcessRuntime(), MovableClock(), iris_catalog()
        stack.push_async_callback(runtime.close)
        deployments, predictors = Deployments(store, clock), Predictors()
        stack.push_async_callback(predictors.close)
        ports = ReconcilerPorts(
            deployments, runtime, predictors, catalog.artifact, _Nobody(), clock, Failpoints({})
        )
        reconciler = Reconciler(ports)
        await stack.enter_async_context(reconciler.running())
        yield World(store, runtime, clock, catalog, deployments, stack)


class _Nobody:
    """No aggregator asks anything."""

    async def is_withdrawn(self, address: str) -> bool:
        return True


def probabilities(results: Sequence[Result]) -> list[float]:
    assert [result.row for result in results] == list(range(len(results)))
    return [result.probability for result in results]


async def all_results(controller: Controller, run: Run) -> list[Result]:
    return await controller.runs.results(run, 0, run.rows_total)
