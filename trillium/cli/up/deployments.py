"""The deployments of an ensemble, one for each model: loaded, then watched."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from trillium.cli.ensemble import describe, how_to_train, in_class_order
from trillium.cli.up.plan import Plan
from trillium.cli.up.servers import POLL_S, START_S, task_group
from trillium.client.controller import AsyncControllerClient
from trillium.client.controller_calls import DEPLOYMENTS
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.errors import TrilliumError
from trillium.model.description import ModelDescription
from trillium.server.process import StartFailed

_LONGEST_ID = 40
_RETRY_S = 0.2


def deployment_id(model: str) -> str:
    """The id of a model's deployment: its name, with characters replaced that ids do not allow.

    A changed name ends in a digest, so that two models never share an id.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"m-{plain}".rstrip("-")
    if plain == model and len(plain) <= _LONGEST_ID:
        return plain
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST_ID - 9].rstrip('-')}-{digest}"


async def load_ensembles(
    plan: Plan,
    files: Mapping[str, Sequence[Path]],
    controller: AsyncControllerClient,
    say: Callable[[str], None],
) -> dict[str, list[ModelDescription]]:
    """Load the newest version of every model; returns the models of each ensemble in the order of
    its classes. `files` are those of each ensemble.

    Raises StartFailed, also for files that are not one model for each class of their ensemble.
    """
    for name, paths in files.items():
        await _check_registered(controller, paths, name)
    models = [path.stem for paths in files.values() for path in paths]
    loaded = {each.name: each for each in await load_all(controller, models, say)}
    return {
        name: in_class_order(name, plan.models, [loaded[path.stem] for path in paths])
        for name, paths in files.items()
    }


async def _check_registered(
    controller: AsyncControllerClient, artifacts: Sequence[Path], ensemble: str
) -> None:
    """Raises StartFailed for the first artifact that the controller refused when it started."""
    try:
        refusals = {each.file: each.detail for each in await controller.refused_models()}
    except TrilliumError as error:
        raise StartFailed(f"the controller does not respond: {error}") from error
    for artifact in artifacts:
        if artifact.name in refusals:
            reason = refusals[artifact.name].rstrip(".")
            again = f"if it is damaged, delete it and run: {how_to_train(ensemble)}"
            raise StartFailed(f"{artifact} is refused: {reason}; {again}")


async def load_all(
    controller: AsyncControllerClient, models: Sequence[str], say: Callable[[str], None]
) -> list[ModelDescription]:
    """Load the newest version of each model; returns what serves them, in the same order.

    A deployment that exists already is kept. Raises StartFailed.
    """
    try:
        existing = {
            each.name.removeprefix(DEPLOYMENTS): each.model
            async for each in controller.deployments()
            if each.target != deployment_pb.TARGET_ABSENT
        }
        ids = {model: deployment_id(model) for model in models}
        say(_announcement(list(ids.values()), existing))
        ensembles = {each.name: each.ensemble async for each in controller.models()}
        async with task_group() as group:
            tasks = [
                group.create_task(_load(controller, ids[model], model, existing))
                for model in models
            ]
    except TrilliumError as error:
        raise StartFailed(f"the controller does not respond: {error}") from error
    described = zip(models, (task.result() for task in tasks), strict=True)
    return [replace(each, name=model, ensemble=ensembles[model]) for model, each in described]


def _announcement(ids: Sequence[str], existing: Mapping[str, str]) -> str:
    verb = "loading" if set(ids) <= existing.keys() else "creating"
    what = f"{len(ids)} deployments" if len(ids) > 1 else "deployment"
    others = len(existing.keys() - set(ids))
    also = f" ({others} more exist from an earlier start)" if others else ""
    return f"{verb} {what}{also}: {', '.join(ids)} ..."


async def _load(
    controller: AsyncControllerClient, id: str, model: str, existing: Mapping[str, str]
) -> ModelDescription:
    served = existing.get(id, model)
    if served != model:
        text = f"deployment {id} serves the model {served}: expected {model}"
        raise StartFailed(f"{text}; terminate it, or choose another --state")
    try:
        if id not in existing:
            await controller.create(model, id=id)
        async with asyncio.timeout(START_S):
            return await _serving(controller, id)
    except TrilliumError as error:
        raise StartFailed(f"deployment {id} of {model} cannot be loaded: {error}") from error
    except TimeoutError:
        raise StartFailed(f"deployment {id} did not serve within {START_S:g} s") from None


async def _serving(controller: AsyncControllerClient, id: str) -> ModelDescription:
    while True:
        # The state that an earlier controller recorded may be out of date: its predictors ended
        # with it. Loading is idempotent, so it is repeated until a predictor responds.
        deployment = await controller.load(id, newest=True)
        for instance in deployment.instances:
            described = await describe(instance.address) if instance.address else None
            if described is not None:
                return described
        await asyncio.sleep(POLL_S)


async def report_changes(address: str, ids: Sequence[str], say: Callable[[str], None]) -> NoReturn:
    """Report when one of the deployments `ids`, all loaded now, is no longer loaded, and when it is
    loaded again. Runs until cancelled, also across restarts of the controller."""
    loaded = dict.fromkeys(ids, True)
    while True:
        with contextlib.suppress(TrilliumError):
            async with (
                AsyncControllerClient(address) as controller,
                contextlib.aclosing(controller.watch_deployments()) as changes,
            ):
                async for change in changes:
                    if change.HasField("deployment"):
                        _report(change.deployment, loaded, say)
        await asyncio.sleep(_RETRY_S)


def _report(
    deployment: deployment_pb.Deployment, loaded: dict[str, bool], say: Callable[[str], None]
) -> None:
    id = deployment.name.removeprefix(DEPLOYMENTS)
    is_loaded = deployment.state == deployment_pb.STATE_LOADED
    if loaded.get(id) == (not is_loaded):
        loaded[id] = is_loaded
        cause = f"not loaded: {deployment.detail}" if deployment.detail else "no longer loaded"
        say(f"deployment {id} is {'loaded again' if is_loaded else cause}")
