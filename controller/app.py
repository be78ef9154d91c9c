"""Puts a controller together: what `python -m controller` runs and what tests run in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trillium.clock import Clock, SteadyClock
from trillium.rpc.front import AddressInUse, Front
from trillium.rpc.health import Health
from trillium.rpc.methods import Limits
from trillium.server.doors import door_of
from trillium.server.measured import measured
from trillium.server.process import StartFailed
from trillium.server.tasks import Supervisor
from trillium.server.tls import certificate_of

from .catalog.catalog import Catalog
from .catalog.collecting import BlobCollector
from .catalog.seeding import seed
from .catalog.service import CATALOG_SERVICE, CatalogServicer
from .catalog.specs import Library
from .catalog.trial import Trial
from .config import ControllerConfig
from .deleting import Deleting
from .deployments.effects import ReconcilerPorts
from .deployments.reconciler import Reconciler
from .deployments.repository import Deployments, Retention
from .deployments.service import CONTROLLER_SERVICE, ControllerServicer
from .discovery.service import DISCOVERY_SERVICE, DiscoveryServicer
from .discovery.snapshot import Discovery
from .ensembles.keeper import EnsembleKeeper
from .ensembles.repository import EnsembleRepository
from .ensembles.service import ENSEMBLE_SERVICE, EnsembleServicer
from .failpoints import Failpoints
from .figures import families
from .outages import reporting_outages
from .predictors import Predictors
from .requests import Requests
from .runs.catalog_source import CatalogSource
from .runs.executor import RunExecutor
from .runs.orders import RunOrders
from .runs.repository import Runs
from .runs.service import RUN_SERVICE, RunServicer
from .runtime.port import Runtime, RuntimeFailure
from .sole import sole
from .store.port import Store, StoreError

FIRST_LOOK_S = 10.0
"""Health is SERVING after the first complete look, or after this time without one."""
SERVICES = (CONTROLLER_SERVICE, ENSEMBLE_SERVICE, RUN_SERVICE, CATALOG_SERVICE, DISCOVERY_SERVICE)


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
    predictors: Predictors | None = None,
) -> AsyncIterator[RunningController]:
    """Start a controller; leaving the context drains and stops it.

    `store` and `runtime` stand in for those that the config names, and `predictors` for the way to
    real ones; they are opened and closed here. Raises StartFailed.
    """
    # Machines' clocks are set, by hours and days; what waits, ends late or expires must not mind.
    clock, failpoints = clock or SteadyClock(), failpoints or Failpoints({})
    health = Health(SERVICES)
    async with AsyncExitStack() as stack:
        store = await _opened_store(stack, store or make_store(config, clock, health.report))
        if runtime is None and config.docker is None:
            stack.enter_context(sole(config.store, config.database))
        runtime = await _opened_runtime(stack, runtime or make_runtime(config))
        predictors = predictors or Predictors()
        stack.push_async_callback(predictors.close)
        catalog = Catalog(store, clock, Trial())
        refused = await _seeded(catalog, config.models_dir)
        loops = _loops(
            config, store, runtime, predictors, catalog, clock, failpoints, health.report
        )
        servicers = _servicers(config, loops, catalog, Requests(store, clock), runtime, refused)
        services = [*(each.service() for each in servicers), health.service()]
        front = Front(
            [reporting_outages(each) for each in services],
            (config.listen,),
            Limits(),
            door=door_of(config, config.listen),
            certificate=certificate_of(config),
        )
        await stack.enter_async_context(
            measured(
                config,
                front.figures,
                lambda: families(
                    loops.reconciler.live,
                    loops.reconciler.figures,
                    endpoints=len(loops.discovery.snapshot.endpoints),
                    failing=health.failing,
                ),
            )
        )
        try:
            await front.start()
        except AddressInUse as error:
            text = f"{error}; choose another --listen or stop what is there"
            raise StartFailed(text) from error
        for each in (loops.reconciler, loops.keeper, loops.discovery, loops.executor):
            await stack.enter_async_context(each.running())
        collector = BlobCollector(store, catalog, clock)
        tasks = await stack.enter_async_context(Supervisor(health.report))
        tasks.keep("collector of blobs", collector.run)
        await loops.reconciler.first_look(FIRST_LOOK_S)
        health.set_serving(True)
        try:
            yield RunningController(front.addresses[0], health, loops.deployments)
        finally:
            health.end()
            for servicer in servicers:
                if not isinstance(servicer, CatalogServicer):  # It has no streams of answers.
                    servicer.draining.set()
            await front.stop(config.drain_s)


@dataclass(frozen=True, slots=True)
class _Loops:
    """What works in the background, and the records that it works on."""

    deployments: Deployments
    runs: Runs
    source: CatalogSource
    library: Library
    reconciler: Reconciler
    ensembles: EnsembleRepository
    keeper: EnsembleKeeper
    discovery: Discovery
    executor: RunExecutor


def _loops(
    config: ControllerConfig,
    store: Store,
    runtime: Runtime,
    predictors: Predictors,
    catalog: Catalog,
    clock: Clock,
    failpoints: Failpoints,
    on_failing: Callable[[str, bool], None],
) -> _Loops:
    retention = Retention(
        timedelta(seconds=config.keep_events_s), timedelta(seconds=config.keep_terminated_s)
    )
    deployments, library = Deployments(store, clock, retention), Library(catalog)
    ensembles = EnsembleRepository(store, clock)
    discovery = Discovery(store, deployments, ensembles, clock, on_failing)
    ports = ReconcilerPorts(
        deployments, runtime, predictors, library.artifact, discovery, clock, failpoints
    )
    runs = Runs(store, deployments, clock, failpoints)
    source = CatalogSource(catalog, library)
    return _Loops(
        deployments=deployments,
        runs=runs,
        source=source,
        library=library,
        reconciler=Reconciler(ports, probing=config.probing, on_failing=on_failing),
        ensembles=ensembles,
        keeper=EnsembleKeeper(ensembles, deployments, clock, failpoints, on_failing),
        discovery=discovery,
        executor=RunExecutor(
            runs,
            deployments,
            predictors,
            source,
            clock,
            failpoints,
            at_once=config.max_runs,
            on_failing=on_failing,
        ),
    )


def _servicers(
    config: ControllerConfig,
    loops: _Loops,
    catalog: Catalog,
    requests: Requests,
    runtime: Runtime,
    refused: Mapping[str, str],
) -> Sequence[
    ControllerServicer | EnsembleServicer | RunServicer | CatalogServicer | DiscoveryServicer
]:
    deployments, inventory = loops.deployments, loops.reconciler.inventory
    kept = timedelta(seconds=config.keep_runs_s)
    orders = RunOrders(loops.runs, deployments, loops.source, retention=kept)
    return (
        ControllerServicer(deployments, requests, loops.library, inventory, runtime),
        EnsembleServicer(loops.ensembles, deployments, requests, catalog),
        RunServicer(orders, loops.runs, requests),
        CatalogServicer(
            catalog,
            config.max_model_bytes,
            config.max_dataset_bytes,
            refused,
            deletions=Deleting(catalog, deployments, loops.runs),
        ),
        DiscoveryServicer(loops.discovery),
    )


def make_store(
    config: ControllerConfig, clock: Clock, on_failing: Callable[[str, bool], None]
) -> Store:
    """The store that the config names; pymongo is imported only if it is MongoDB. `clock` decides
    what has expired, where the store has no clock of its own; `on_failing` is that of a Supervisor.
    """
    if config.store.startswith("sqlite:"):
        from .store.sqlite import SqliteStore

        path = Path(config.store.removeprefix("sqlite:"))
        return SqliteStore(path, clock=clock, on_failing=on_failing)
    from .store.mongo import MongoStore

    return MongoStore(config.store, database=config.database, clock=clock)


def make_runtime(config: ControllerConfig) -> Runtime:
    """The runtime that the config names; docker is imported only if it is that."""
    if config.docker is None:
        from .runtime.process import ProcessRuntime

        return ProcessRuntime()
    from .runtime.docker import DockerRuntime

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
