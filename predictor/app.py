"""Puts a predictor together: what `python -m predictor` runs and what tests run in-process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from trillium.clock import Clock, SystemClock
from trillium.errors import ModelNotFound, ModelRejected
from trillium.oip import service as oip
from trillium.rpc.front import AddressInUse, Front
from trillium.rpc.health import Health
from trillium.rpc.methods import Limits
from trillium.server.doors import door_of
from trillium.server.measured import measured
from trillium.server.process import StartFailed
from trillium.server.tls import certificate_of

from .config import PredictorConfig
from .host import ModelHost
from .inference import PredictorModels
from .model_service import MODEL_SERVICE, ModelServicer
from .models_folder import ModelsFolder, read_artifact
from .service import PREDICTOR_SERVICE, PredictorServicer


@dataclass(frozen=True, slots=True)
class RunningPredictor:
    """A predictor that is running."""

    address: str
    """Where it listens, with the actual port."""
    host: ModelHost
    health: Health


@asynccontextmanager
async def running_predictor(
    config: PredictorConfig, *, clock: Clock | None = None
) -> AsyncIterator[RunningPredictor]:
    """Start a predictor; leaving the context drains and stops it.

    It listens first and loads then, so that health checks see NOT_SERVING instead of no server.
    Raises StartFailed.
    """
    clock = clock or SystemClock()
    health = Health((PREDICTOR_SERVICE, MODEL_SERVICE, oip.INFERENCE_SERVICE))
    health.set_serving(True, MODEL_SERVICE)
    host = ModelHost(
        clock=clock,
        threads=config.threads,
        on_change=lambda serving: health.set_serving(
            serving, "", PREDICTOR_SERVICE, oip.INFERENCE_SERVICE
        ),
    )
    folder = ModelsFolder(config.models_dir, config.max_model_bytes)
    inference = oip.InferenceServicer(
        PredictorModels(host, folder, clock=clock, max_rows=config.max_rows),
        server_name="trillium-predictor",
        extensions=(
            oip.CLASSIFICATION,
            oip.MODEL_CONFIGURATION,
            oip.MODEL_REPOSITORY,
            oip.STATISTICS,
        ),
        is_ready=health.is_serving,
        clock=clock,
    )
    services = (
        PredictorServicer(host, clock=clock, max_rows=config.max_rows).service(),
        ModelServicer(host, folder).service(),
        inference.service(),
        health.service(),
    )
    limits = Limits(config.max_message_bytes, config.max_bytes_in_flight)
    front = Front(
        services,
        (config.listen,),
        limits,
        door=door_of(config, config.listen),
        certificate=certificate_of(config),
    )
    try:
        await front.start()
    except AddressInUse as error:
        raise StartFailed(f"{error}; choose another --listen or stop what is there") from error
    try:
        async with measured(config, front.figures, host.figures):
            await _load(host, config)
            yield RunningPredictor(front.addresses[0], host, health)
    finally:
        health.end()
        inference.draining.set()
        host.end_streams()
        await front.stop(config.drain_s)
        await host.close()


async def _load(host: ModelHost, config: PredictorConfig) -> None:
    if config.model is None:
        return
    try:
        artifact, digest, declared = await asyncio.to_thread(
            read_artifact, config.model, config.max_model_bytes
        )
        declared = declared.overridden_by(config.declared)
        await host.load(config.model.stem, artifact, digest, declared)
    except ModelNotFound as error:
        raise StartFailed(f"{error}; check --model, or train one: make models") from error
    except ModelRejected as error:
        raise StartFailed(f"the model {config.model} is refused: {error}") from error
