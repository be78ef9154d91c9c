"""Deletes models and datasets that nothing uses.

What uses one is looked for before; whoever begins to use it at that very moment finds it gone, and
says so: a deployment is FAILED with that reason, a run fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trillium.errors import InUse

from .catalog.catalog import Catalog
from .catalog.registered import DatasetVersion, ModelVersion
from .deployments.document import LIVE as LIVE_DEPLOYMENTS
from .deployments.document import Deployment, Target
from .deployments.repository import Deployments
from .runs.repository import Runs
from .runs.run import LIVE as LIVE_RUNS
from .runs.run import Run

_NAMED = 10
"""Number of users that an error lists."""


class Deleting:
    """Deletes from a catalog, with an eye on deployments and runs."""

    def __init__(self, catalog: Catalog, deployments: Deployments, runs: Runs) -> None:
        self._catalog = catalog
        self._deployments = deployments
        self._runs = runs

    async def model(self, name: str, version: int = 0, *, validate_only: bool) -> int:
        """Delete a version of a model, 0 meaning the model; returns the bytes that nothing else
        uses. Raises ModelNotFound, InUse."""
        model, found = await self._catalog.model_version(name, version)
        if version and len(model.versions) == 1:
            raise InUse(f"version {version} is the only one of model {name!r}; delete the model")
        doomed = (found,) if version else model.versions
        users = [
            f"deployment {stored.id!r}"
            async for stored in self._deployments.all(states=LIVE_DEPLOYMENTS, model=name)
            if _uses(stored.value, doomed)
        ]
        numbers = {each.version for each in doomed}
        users += [
            f"run {stored.id!r}"
            async for stored in self._runs.all(states=LIVE_RUNS, model=name)
            if stored.value.model_version in numbers
        ]
        what = f"version {version} of model {name!r}" if version else f"model {name!r}"
        _check_unused(what, users)
        freed = await self._freed(doomed)
        if not validate_only:
            await self._catalog.remove_model(name, version)
        return freed

    async def dataset(self, name: str, *, validate_only: bool) -> int:
        """Delete a dataset; returns the bytes that nothing else uses. Raises DatasetNotFound,
        InUse."""
        dataset = await self._catalog.dataset(name)
        users = [
            f"run {stored.id!r}"
            async for stored in self._runs.all(states=LIVE_RUNS)
            if _reads(stored.value, name)
        ]
        _check_unused(f"dataset {name!r}", users)
        freed = await self._freed(dataset.versions)
        if not validate_only:
            await self._catalog.remove_dataset(name)
        return freed

    async def _freed(self, doomed: Iterable[ModelVersion | DatasetVersion]) -> int:
        used = await self._catalog.blobs_in_use()
        sizes = {}
        for each in doomed:
            used[each.digest] -= 1
            sizes[each.digest] = each.size_bytes
        return sum(size for digest, size in sizes.items() if not used[digest])


def _uses(deployment: Deployment, versions: Iterable[ModelVersion]) -> bool:
    """Whether a deployment is to have one of the versions, or has it still. One that is being
    terminated needs no artifact any more."""
    if deployment.spec.target is Target.ABSENT:
        return False
    digests = {each.digest for each in versions}
    spec = deployment.spec
    if spec.version in {each.version for each in versions} or spec.digest in digests:
        return True
    return any({each.digest, each.incoming} & digests for each in deployment.instances)


def _reads(run: Run, dataset: str) -> bool:
    return run.dataset == dataset


def _check_unused(what: str, users: Sequence[str]) -> None:
    if users:
        more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
        text = f"{what} is used by {', '.join(users[:_NAMED])}{more}"
        raise InUse(f"{text}; terminate or cancel them first")
