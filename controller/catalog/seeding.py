"""Registers what ships with a controller: the models of a folder and the dataset "iris".

It is done at every start: what some version of the catalog has already is left alone, so that a
newer version, which somebody has registered since, stays the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trillium.errors import (
    DatasetNotFound,
    InvalidRequest,
    ModelNotFound,
    ModelRejected,
    RecordUnreadable,
)
from trillium.model.declared import DeclaredFacts, next_to
from trillium.rpc.uploads import is_name

from .catalog import Catalog
from .datasets import Format
from .registered import RegisteredDataset, RegisteredModel
from .trial import TrialFailed

log = logging.getLogger(__name__)

IRIS = "iris"
_AT_ONCE = 2
"""Number of artifacts in memory at a time."""


class Unregistrable(Exception):
    """Why a file is no model that can be registered, for a person."""


async def seed(catalog: Catalog, models_dir: Path | None) -> Mapping[str, str]:
    """Register every `<name>.onnx` in `models_dir`, with the facts in the JSON file next to it, and
    the dataset "iris". May be repeated, also by several controllers at once.

    Answers the files that are no models, with the reasons; they are logged, too. Raises what the
    store raises.
    """
    await _seed_iris(catalog)
    if models_dir is None:
        return {}
    paths = await asyncio.to_thread(lambda: sorted(models_dir.glob("*.onnx")))
    turns = asyncio.Semaphore(_AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_seed_model(catalog, path, turns)) for path in paths]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    reasons = zip(paths, (task.result() for task in tasks), strict=True)
    return {path.name: reason for path, reason in reasons if reason}


async def _seed_model(catalog: Catalog, path: Path, turns: asyncio.Semaphore) -> str:
    """Why the file was not registered; empty if it was, or was already."""
    async with turns:
        reason = await _registered(catalog, path)
    if reason:
        log.warning("model not registered", extra={"file": path.name, "detail": reason})
    return reason


async def _registered(catalog: Catalog, path: Path) -> str:
    try:
        artifact, digest, declared = await asyncio.to_thread(_read, path)
        known = await _versions(catalog.model(path.stem))
        if any((version.digest, version.declared) == (digest, declared) for version in known):
            return ""
        _, version = await catalog.register_model(path.stem, artifact, declared)
    except (
        Unregistrable, ModelRejected, InvalidRequest, TrialFailed, RecordUnreadable
    ) as error:  # fmt: skip
        # What ships is a convenience: a controller starts without it, too.
        return str(error)
    log.info("model registered", extra={"model": path.stem, "version": version})
    return ""


async def _seed_iris(catalog: Catalog) -> None:
    file = resources.files(__package__).joinpath("data", "iris.csv")
    content = await asyncio.to_thread(file.read_bytes)
    digest = hashlib.sha256(content).hexdigest()
    try:
        known = await _versions(catalog.dataset(IRIS))
    except RecordUnreadable as error:
        log.warning("dataset not registered", extra={"dataset": IRIS, "detail": error.message})
        return
    if all(version.digest != digest for version in known):
        await catalog.register_dataset(IRIS, content, Format.CSV)
        log.info("dataset registered", extra={"dataset": IRIS})


async def _versions(named: Awaitable[RegisteredModel | RegisteredDataset]) -> Sequence[Any]:
    """The versions of what has a name; none if nothing has it."""
    try:
        return (await named).versions
    except (ModelNotFound, DatasetNotFound):
        return ()


def _read(path: Path) -> tuple[bytes, str, DeclaredFacts]:
    """An artifact, its SHA-256, and the facts in the file next to it.

    Raises Unregistrable, ModelRejected.
    """
    if not is_name(path.stem):
        text = "letters, digits, '.', '_' and '-', at most 128, not starting with '.'"
        raise Unregistrable(f"its name is none of a model: {text}")
    try:
        artifact = path.read_bytes()
    except OSError as error:
        raise Unregistrable(f"it cannot be read: {error.strerror}") from error
    return artifact, hashlib.sha256(artifact).hexdigest(), next_to(path)
