"""Puts a controller together: what `python -m controller` runs and what tests run in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.catalog.catalog import Catalog
from controller.catalog.seeding import seed
from controller.catalog.service import CATALOG_SERVICE, CatalogServicer
from controller.catalog.specs import Library
from controller.catalog.trial import Trial
from controller.config import ControllerConfig
from controller.deployments import Deployments
from controller.discovery import Discovery
from controller.discovery_service import DISCOVERY_SERVICE, DiscoveryServicer
from controller.failpoints import Failpoints
from controller.outages import telling_outages
from controller.predictors import Predictors
from controller.reconciler import Reconciler
from controller.requests import Requests
from controller.runs.catalog_source import CatalogSource
from controller.runs.executor import RunExecutor
from controller.runs.orders import RunOrders
from controller.runs.runs import Runs
from controller.runs.service import RUN_SERVICE, RunServicer
from controller.runtime.port import Runtime, RuntimeFailure
from controller.service import CONTROLLER_SERVICE, ControllerServicer
from controller.sole import sole
from controller.store.port import Store, StoreError
from trillium.clock import Clock, SystemClock
from trillium.process import StartFailed
from trillium.rpc.front import AioFront
from trillium.rpc.health import Health
from trillium.rpc.listening import AddressInUse
from trillium.rpc.methods import Limits

FIRST_LOOK_S = 10.0
"""Health says SERVING after the first whole look, or after so long without one."""
SERVICES = (CONTROLLER_SERVICE, RUN_SERVICE, CATALOG_SERVICE, DISCOVERY_SERVICE)


@dataclass(frozen=True, slots=True)
class RunningController:
    """A controller that is up."""

    address: str
    """Where it listens, with the port that was really taken."""
    health: Health
    deployments: Deployments


@asynccontextmanager
async def running_controller(
    config: ControllerConfig,
    *,
    clock: Clock | None = None,
    failpoints: Failpoints | None = None,
    store: Store | None = None,
    runtime: Runtime | None = None,
) -> AsyncIterator[RunningController]:
    """Start a controller; leaving the context drains and stops it.

    `store` and `runtime` stand in for those that the config names; they are opened and closed here.
    Raises StartFailed.
    """
    clock, failpoints = clock or SystemClock(), failpoints or Failpoints({})
    async with AsyncExitStack() as stack:
        store = await _opened_store(stack, store or make_store(config))
        if runtime is None and config.docker is None:
            stack.enter_context(sole(config.store, config.database))
        runtime = await _opened_runtime(stack, runtime or make_runtime(config))
        predictors = Predictors()
        stack.push_async_callback(predictors.close)
        deployments = Deployments(store, clock)
        catalog = Catalog(store, clock, Trial())
        refused = await _seeded(catalog, config.models_dir)
        discovery = Discovery(store, deployments, clock)
        library = Library(catalog)
        reconciler = Reconciler(
            deployments,
            runtime,
            predictors,
            artifact=library.artifact,
            endings=discovery,
            clock=clock,
            failpoints=failpoints,
            probing=config.probing,
        )
        requests = Requests(store, clock)
        runs = Runs(store, deployments, clock, failpoints)
        source = CatalogSource(catalog, library)
        executor = RunExecutor(
            runs, deployments, predictors, source, clock, failpoints, at_once=config.max_runs
        )
        orders = RunOrders(runs, deployments, source)
        controlling = ControllerServicer(deployments, requests, library, reconciler.looker, runtime)
        running = RunServicer(orders, runs, requests)
        cataloguing = CatalogServicer(
            catalog, config.max_model_bytes, config.max_dataset_bytes, refused
        )
        discovering = DiscoveryServicer(discovery)
        health = Health(SERVICES)
        services = (
            controlling.service(),
            running.service(),
            cataloguing.service(),
            discovering.service(),
            health.service(),
        )
        told = [telling_outages(service) for service in services]
        front = AioFront(told, (config.listen,), Limits())
        try:
            await front.start()
        except AddressInUse as error:
            text = f"{error}; choose another --listen or stop what is there"
            raise StartFailed(text) from error
        await stack.enter_async_context(reconciler.running())
        await stack.enter_async_context(discovery.running())
        await stack.enter_async_context(executor.running())
        await reconciler.first_look(FIRST_LOOK_S)
        health.set_serving(True)
        try:
            yield RunningController(front.addresses[0], health, deployments)
        finally:
            health.end()
            for each in (controlling, running, discovering):
                each.draining.set()
            await front.stop(config.drain_s)


def make_store(config: ControllerConfig) -> Store:
    """The store that the config names; pymongo is imported only if it is MongoDB."""
    if config.store.startswith("sqlite:"):
        from controller.store.sqlite import SqliteStore

        return SqliteStore(Path(config.store.removeprefix("sqlite:")))
    from controller.store.mongo import MongoStore

    return MongoStore(config.store, database=config.database)


def make_runtime(config: ControllerConfig) -> Runtime:
    """The runtime that the config names; docker is imported only if it is that."""
    if config.docker is None:
        from controller.runtime.process import ProcessRuntime

        return ProcessRuntime()
    from controller.runtime.docker import DockerRuntime

    return DockerRuntime(config.docker)


async def _opened_store(stack: AsyncExitStack, store: Store) -> Store:
    stack.push_async_callback(store.close)
    try:
        await store.open()
    except StoreError as error:
        raise StartFailed(f"the store cannot be used: {error}; check --store") from error
    return store


async def _opened_runtime(stack: AsyncExitStack, runtime: Runtime) -> Runtime:
    stack.push_async_callback(runtime.close)
    try:
        await runtime.open()
    except RuntimeFailure as error:
        raise StartFailed(f"predictors cannot be run: {error}; check --runtime") from error
    return runtime


async def _seeded(catalog: Catalog, models_dir: Path | None) -> Mapping[str, str]:
    """The files that are no models, with the reasons. Raises StartFailed."""
    try:
        return await seed(catalog, models_dir)
    except StoreError as error:
        raise StartFailed(f"the store cannot be used: {error}; check --store") from error
