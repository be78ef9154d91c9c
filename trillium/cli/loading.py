"""Has a controller serve every model of an ensemble, one deployment for each."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trillium.cli.controller import ControllerCalls, Deployed
from trillium.cli.ensemble import Described, describe, how_to_train
from trillium.cli.processes import POLL_S, START_S
from trillium.errors import TrilliumError
from trillium.process import StartFailed

_LONGEST_ID = 40


def deployment_id(model: str) -> str:
    """The id of a model's deployment: its name, as far as ids allow that.

    Names that had to be changed get a digest, so that two models never share an id.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"m-{plain}".rstrip("-")
    if plain == model and len(plain) <= _LONGEST_ID:
        return plain
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST_ID - 9].rstrip('-')}-{digest}"


async def check_registered(
    controller: ControllerCalls, artifacts: Sequence[Path], ensemble: str
) -> None:
    """Raises StartFailed for the first artifact that the controller refused when it started."""
    try:
        refusals = await controller.refused()
    except TrilliumError as error:
        raise StartFailed(f"the controller cannot be asked: {error}") from error
    for artifact in artifacts:
        if artifact.name in refusals:
            reason = refusals[artifact.name].rstrip(".")
            again = f"if it is damaged, delete it and run: {how_to_train(ensemble)}"
            raise StartFailed(f"{artifact} is refused: {reason}; {again}")


async def load_all(
    controller: ControllerCalls, models: Sequence[str], say: Callable[[str], None]
) -> list[Described]:
    """Have the newest version of each model served; tells of them in the same order.

    A deployment that is there already is kept. Raises StartFailed.
    """
    try:
        there = {each.id: each for each in await controller.deployments() if each.wanted}
        ids = {model: deployment_id(model) for model in models}
        say(_announcement(list(ids.values()), there))
        ensembles = await controller.ensembles()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_load(controller, ids[model], model, there)) for model in models
            ]
    except TrilliumError as error:
        raise StartFailed(f"the controller cannot be asked: {error}") from error
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    found = zip(models, (task.result() for task in tasks), strict=True)
    return [replace(each, model=model, ensemble=ensembles[model]) for model, each in found]


def _announcement(ids: Sequence[str], there: Mapping[str, Deployed]) -> str:
    new = [id for id in ids if id not in there]
    others = [id for id in there if id not in ids]
    verb = "creating and loading" if new else "loading"
    what = f"{len(ids)} deployments" if len(ids) > 1 else "deployment"
    also = f" (also there from before: {len(others)} more)" if others else ""
    return f"{verb} {what}{also}: {', '.join(ids)} ..."


async def _load(
    controller: ControllerCalls, id: str, model: str, there: Mapping[str, Deployed]
) -> Described:
    before = there.get(id)
    if before is not None and before.model != model:
        text = f"deployment {id} serves {before.model}, and {model} is wanted"
        raise StartFailed(f"{text}; terminate it, or choose another --state")
    try:
        if before is None:
            await controller.create(id, model)
        async with asyncio.timeout(START_S):
            return await _serving(controller, id)
    except TrilliumError as error:
        raise StartFailed(f"deployment {id} of {model} cannot be loaded: {error}") from error
    except TimeoutError:
        raise StartFailed(f"deployment {id} did not serve within {START_S:g} s") from None


async def _serving(controller: ControllerCalls, id: str) -> Described:
    while True:
        # What an earlier controller wrote stands until this one has looked, so that "loaded" may
        # be said of a predictor that ended with it: loading is asked for until one answers.
        deployed = await controller.load(id)
        for address in deployed.addresses:
            described = await describe(address)
            if described is not None:
                return described
        await asyncio.sleep(POLL_S)
