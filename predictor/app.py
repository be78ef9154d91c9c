"""Puts a predictor together: what `python -m predictor` runs and what tests run in-process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from predictor.artifact import beside
from predictor.config import PredictorConfig
from predictor.host import ModelHost
from predictor.inference import PredictorModels
from predictor.model_service import MODEL_SERVICE, ModelServicer, Shelf, read_artifact
from predictor.service import PREDICTOR_SERVICE, PredictorServicer
from trillium.clock import Clock, SystemClock
from trillium.errors import ModelNotFound, ModelRejected
from trillium.oip import service as oip
from trillium.process import StartFailed
from trillium.rpc.front import front_on
from trillium.rpc.health import Health
from trillium.rpc.listening import AddressInUse
from trillium.rpc.methods import Limits


@dataclass(frozen=True, slots=True)
class RunningPredictor:
    """A predictor that is up."""

    address: str
    """Where it listens, with the port that was really taken."""
    host: ModelHost
    health: Health


@asynccontextmanager
async def running_predictor(
    config: PredictorConfig, *, clock: Clock | None = None
) -> AsyncIterator[RunningPredictor]:
    """Start a predictor; leaving the context drains and stops it.

    It listens first and loads then, so that whoever looks sees NOT_SERVING and not a closed door.
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
    shelf = Shelf(config.models_dir, config.max_model_bytes)
    inference = oip.InferenceServicer(
        PredictorModels(host, shelf, clock=clock, max_rows=config.max_rows),
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
        ModelServicer(host, shelf).service(),
        inference.service(),
        health.service(),
    )
    limits = Limits(max_message_bytes=config.max_message_bytes)
    front = front_on(config.front, services, (config.listen,), limits, drain_s=config.drain_s)
    try:
        await front.start()
    except AddressInUse as error:
        raise StartFailed(f"{error}; choose another --listen or stop what is there") from error
    try:
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
        artifact, digest = await asyncio.to_thread(
            read_artifact, config.model, config.max_model_bytes
        )
        said = beside(config.model).overridden_by(config.said)
        await host.load(config.model.stem, artifact, digest, said)
    except ModelNotFound as error:
        raise StartFailed(f"{error}; check --model, or train one: make models") from error
    except ModelRejected as error:
        raise StartFailed(f"the model {config.model} is refused: {error}") from error
