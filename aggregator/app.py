"""Puts an aggregator together: what `python -m aggregator` runs and what tests run in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from grpc import aio

from trillium.access.tokens import TokensError, read_token
from trillium.client.credentials import link_access
from trillium.clock import Clock, SystemClock
from trillium.oip import service as oip
from trillium.rpc.channels import link_channel
from trillium.rpc.front import AddressInUse, Front
from trillium.rpc.health import Health
from trillium.rpc.methods import Limits
from trillium.server.doors import door_of
from trillium.server.measured import measured
from trillium.server.process import StartFailed
from trillium.server.tls import certificate_of

from .config import AggregatorConfig
from .ensemble import Ensemble
from .ensembles import ServedEnsembles
from .figures import families
from .inference import ServedModels
from .lanes.fanout import Fanout
from .plan import ServingLimits, ServingPlan
from .plans.names import Names, Resolver
from .plans.published import PublishedPlan, without_revisions
from .plans.resolving import SystemResolver, host_name_of
from .plans.roster import Roster
from .plans.watching import Watcher
from .service import AGGREGATOR_SERVICE, AggregatorServicer


@dataclass(frozen=True, slots=True)
class RunningAggregator:
    """An aggregator that is up."""

    address: str
    """Where it listens, with the port that was really taken."""
    ensembles: ServedEnsembles
    front: Front
    health: Health

    @property
    def roster(self) -> Roster:
        """That of the only ensemble."""
        (only,) = self.ensembles.all()
        return only.current.roster


@asynccontextmanager
async def running_aggregator(
    config: AggregatorConfig,
    *,
    clock: Clock | None = None,
    open_channel: Callable[[str], aio.Channel] = link_channel,
    resolver: Resolver | None = None,
) -> AsyncIterator[RunningAggregator]:
    """Start an aggregator; leaving the context drains and stops it.

    Its predictors need not be there yet: health is SERVING while every class has one that is ready.
    Raises StartFailed.
    """
    clock = clock or SystemClock()
    health = Health((AGGREGATOR_SERVICE, oip.INFERENCE_SERVICE))

    serving = ServingLimits(config.max_rows, config.max_message_bytes, config.default_timeout_s)
    is_sole = bool(config.predictors) or config.controller is None

    names: Names | None = None

    def changed() -> None:
        health.set_serving(ensembles.is_ready, "", AGGREGATOR_SERVICE, oip.INFERENCE_SERVICE)
        for each in ensembles.all():
            if each.name:
                health.set_serving(each.is_ready, f"ensembles/{each.name}")
        if names is not None:
            names.roster_changed()

    def planned(ensemble: Ensemble, published: PublishedPlan) -> ServingPlan:
        is_free = not published.revision
        static = config.predictors if is_free else ()
        roster = Roster(
            static,
            clock=clock,
            names=[each for each in static if host_name_of(each.address) is not None],
            ensemble=ensemble.name if is_free else "",
            classes=dict(published.classes),
            follows=is_free and config.controller is not None,
            on_change=ensemble.changed,
        )
        fanout = Fanout(
            roster,
            open_channel=open_channel,
            clock=clock,
            max_queued_rows=config.max_queued_rows,
            hedge_share=config.hedge_share,
            max_batch_rows=config.max_batch_rows,
            max_batch_bytes=config.max_message_bytes,
        )
        nonlocal names
        if roster.names:
            names = Names(
                roster,
                fanout,
                resolver or SystemResolver(),
                interval_s=config.resolve_interval_s,
            )
        return ServingPlan(
            roster,
            fanout,
            clock=clock,
            limits=serving,
            revision=published.revision,
            statistics=ensemble.statistics_of,
        )

    def made(name: str) -> Ensemble:
        # What a controller will publish of one that it was asked for by name is not known yet.
        initial = without_revisions({})
        return Ensemble(planned, limits=serving, name=name, initial=initial, on_change=changed)

    ensembles = ServedEnsembles(made, is_sole=is_sole, names=config.ensemble)
    servicer = AggregatorServicer(ensembles)
    inference = oip.InferenceServicer(
        ServedModels(ensembles),
        server_name="trillium-aggregator",
        extensions=(oip.CLASSIFICATION, oip.MODEL_CONFIGURATION, oip.STATISTICS),
        is_ready=health.is_serving,
        clock=clock,
    )
    limits = Limits(config.max_message_bytes, config.max_bytes_in_flight)
    services = (servicer.service(), inference.service(), health.service())
    front = Front(
        services,
        (config.listen,),
        limits,
        door=door_of(config, config.listen),
        certificate=certificate_of(config),
        shares_port=config.shares_port == "yes",
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ensembles.running())
        await stack.enter_async_context(
            measured(config, front.figures, lambda: families(ensembles.all()))
        )
        changed()
        if names is not None:
            await stack.enter_async_context(names.running())
        if config.controller is not None:
            watcher = Watcher(
                config.controller,
                ensembles.follow,
                ensemble=config.ensemble[0] if len(config.ensemble) == 1 else "",
                open_channel=_to_controller(config, open_channel),
            )
            await stack.enter_async_context(watcher.running())
        try:
            await front.start()
        except AddressInUse as error:
            raise StartFailed(f"{error}; choose another --listen or stop what is there") from error
        try:
            yield RunningAggregator(front.addresses[0], ensembles, front, health)
        finally:
            health.end()
            servicer.draining.set()
            inference.draining.set()
            await front.stop(config.drain_s)


def _to_controller(
    config: AggregatorConfig, open_channel: Callable[[str], aio.Channel]
) -> Callable[[str], aio.Channel]:
    """How channels to the controller are opened: by `open_channel` if the settings have nothing of
    it. Raises StartFailed."""
    token_file, authorities = config.controller_token_file, config.controller_tls_ca
    if token_file is None and not authorities:
        return open_channel
    try:
        token = "" if token_file is None else read_token(token_file)
        access = link_access(token, authorities)
    except (TokensError, ValueError) as error:
        text = "check --controller-token-file and --controller-tls-ca"
        raise StartFailed(f"{error}; {text}") from error
    return partial(link_channel, access=access)
