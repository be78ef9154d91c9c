"""The ensembles of `trillium up`: applied once, resumed at every later start, then watched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import NoReturn

from trillium.cli.ensemble import describe, how_to_train, in_class_order
from trillium.cli.show import moment
from trillium.cli.up.plan import Plan
from trillium.cli.up.servers import POLL_S, START_S, task_group
from trillium.client.controller import AsyncControllerClient
from trillium.client.controller_calls import DEPLOYMENTS
from trillium.client.ensemble_calls import ENSEMBLES
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb
from trillium.errors import EnsembleNotFound, TrilliumError
from trillium.model.description import ModelDescription
from trillium.server.process import StartFailed

_RETRY_S = 0.2

Models = Mapping[str, catalog_pb.Model]
"""Those that are registered, by name."""


async def load_ensembles(
    plan: Plan,
    files: Mapping[str, Sequence[Path]],
    controller: AsyncControllerClient,
    say: Callable[[str], None],
) -> dict[str, list[ModelDescription]]:
    """Have every ensemble serve; returns the models of each in the order of its classes. `files`
    are those of each ensemble: one that was never applied gets the newest version of each, one that
    was goes on with what it served, whatever the folder has.

    Raises StartFailed, also for files that are not one model for each class of their ensemble.
    """
    try:
        for name, paths in files.items():
            await _check_registered(controller, paths, name)
        models = {each.name: each async for each in controller.models()}
        async with task_group() as group:
            tasks = {
                name: group.create_task(_served(controller, plan, name, paths, models, say))
                for name, paths in files.items()
            }
    except TrilliumError as error:
        raise StartFailed(f"the controller does not respond: {error}") from error
    return {name: task.result() for name, task in tasks.items()}


async def _check_registered(
    controller: AsyncControllerClient, artifacts: Sequence[Path], ensemble: str
) -> None:
    """Raises StartFailed for the first artifact that the controller refused when it started."""
    refusals = {each.file: each.detail for each in await controller.refused_models()}
    for artifact in artifacts:
        if artifact.name in refusals:
            reason = refusals[artifact.name].rstrip(".")
            again = f"if it is damaged, delete it and run: {how_to_train(ensemble)}"
            raise StartFailed(f"{artifact} is refused: {reason}; {again}")


async def _served(
    controller: AsyncControllerClient,
    plan: Plan,
    name: str,
    paths: Sequence[Path],
    models: Models,
    say: Callable[[str], None],
) -> list[ModelDescription]:
    there = [models[path.stem] for path in paths if path.stem in models]
    if not there:
        raise StartFailed(f"no model of {name} is registered; see the controller's log")
    ordered = in_class_order(name, plan.models, [_described(each) for each in there])
    try:
        async with asyncio.timeout(START_S):
            await _resumed_or_applied(controller, name, ordered, say)
            return await _described_by_predictors(controller, name, models)
    except TrilliumError as error:
        raise StartFailed(f"ensemble {name} cannot be served: {error}") from error
    except TimeoutError:
        raise StartFailed(f"ensemble {name} did not serve within {START_S:g} s") from None


async def _resumed_or_applied(
    controller: AsyncControllerClient,
    name: str,
    newest: Sequence[ModelDescription],
    say: Callable[[str], None],
) -> None:
    try:
        known = await controller.get_ensemble(name)
    except EnsembleNotFound:
        known = None
    if known is None or not known.desired_traffic:
        classes = [each.name for each in newest]
        say(f"applying {name} with {len(classes)} classes: {', '.join(classes)} ...")
        await controller.apply_ensemble(name, classes)
        return
    say(resumed(known, {each.digest for each in newest}))
    if known.target != deployment_pb.TARGET_LOADED:
        await controller.load_ensemble(name)


def resumed(ensemble: pb.Ensemble, newest: Collection[str]) -> str:
    """A line on an ensemble that goes on; `newest` are the digests of the models of its folder."""
    name = ensemble.name.removeprefix(ENSEMBLES)
    shares = ensemble.traffic or ensemble.desired_traffic
    revisions = " and ".join(str(each.revision) for each in shares)
    line = f"resuming {name} revision {revisions}"
    if ensemble.HasField("serve_time"):
        line += f", serving since {moment(ensemble.serve_time.ToDatetime(UTC))}"
    if not {each.model_digest for each in ensemble.classes} >= set(newest):
        line += f"; newer models of {name} are registered: `trillium apply` serves them"
    return f"{line} ..."


def _described(model: catalog_pb.Model) -> ModelDescription:
    """What the catalog knows of the newest version of a model."""
    newest = model.versions[-1]
    return ModelDescription(
        feature_count=newest.feature_count,
        class_label=model.class_label,
        feature_names=tuple(newest.feature_names),
        ensemble=model.ensemble,
        class_labels=tuple(model.class_labels),
        name=model.name,
        digest=newest.digest,
    )


async def _described_by_predictors(
    controller: AsyncControllerClient, name: str, models: Models
) -> list[ModelDescription]:
    """What serves each class: the state that an earlier controller recorded may be out of date, as
    its predictors ended with it."""
    found: dict[str, ModelDescription] = {}
    while True:
        ensemble = await controller.get_ensemble(name)
        missing = [each for each in ensemble.classes if each.class_label not in found]
        if not missing and ensemble.state == pb.ENSEMBLE_STATE_SERVING:
            return [found[each.class_label] for each in ensemble.classes]
        if ensemble.state == pb.ENSEMBLE_STATE_FAILED:
            raise StartFailed(f"ensemble {name} cannot be served: {ensemble.detail}")
        for each in missing:
            described = await _answered(controller, each)
            if described is not None:
                own = models[each.model].ensemble if each.model in models else ""
                found[each.class_label] = replace(described, name=each.model, ensemble=own)
        await asyncio.sleep(POLL_S)


async def _answered(
    controller: AsyncControllerClient, served: pb.EnsembleClass
) -> ModelDescription | None:
    """The model of a class, as one of its predictors describes it; None if none answers."""
    if not served.deployment:
        return None
    with contextlib.suppress(TrilliumError):
        deployment = await controller.deployment(served.deployment)
        for instance in deployment.instances:
            described = await describe(instance.address) if instance.address else None
            if described is not None and described.digest == served.model_digest:
                return described
    return None


async def report_changes(
    address: str, names: Sequence[str], say: Callable[[str], None]
) -> NoReturn:
    """Report when a deployment of one of these ensembles is no longer loaded, and when it is loaded
    again. Runs until cancelled, also across restarts of the controller."""
    owners = {ENSEMBLES + name for name in names}
    loaded: dict[str, bool] = {}
    while True:
        with contextlib.suppress(TrilliumError):
            async with (
                AsyncControllerClient(address) as controller,
                contextlib.aclosing(controller.watch_deployments()) as changes,
            ):
                async for change in changes:
                    if change.deployment.owner in owners:
                        _report(change.deployment, loaded, say)
        await asyncio.sleep(_RETRY_S)


def _report(
    deployment: deployment_pb.Deployment, loaded: dict[str, bool], say: Callable[[str], None]
) -> None:
    id = deployment.name.removeprefix(DEPLOYMENTS)
    if deployment.target != deployment_pb.TARGET_LOADED:
        loaded.pop(id, None)
        return
    is_loaded = deployment.state == deployment_pb.STATE_LOADED
    if id not in loaded:
        # One that is about to be loaded for the first time is no news.
        if is_loaded:
            loaded[id] = True
        return
    if loaded[id] == is_loaded:
        return
    loaded[id] = is_loaded
    cause = f"not loaded: {deployment.detail}" if deployment.detail else "no longer loaded"
    model = f"{deployment.model}@{deployment.model_version}"
    say(f"{model} is {'loaded again' if is_loaded else cause}")
