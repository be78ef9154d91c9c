"""Registers what ships with a controller: the models of a folder and the dataset "iris".

It is done at every start: what some version of the catalog has already is left alone, so that a
newer version, which somebody has registered since, stays the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from controller.catalog.catalog import Catalog
from controller.catalog.datasets import Format
from controller.catalog.registered import RegisteredDataset, RegisteredModel, Said
from controller.catalog.trial import TrialFailed
from trillium.errors import DatasetNotFound, InvalidRequest, ModelNotFound, ModelRejected
from trillium.rpc.uploads import is_name

log = logging.getLogger(__name__)

IRIS = "iris"
_AT_ONCE = 2
"""So many artifacts are in memory at a time."""
_TEXTS = ("class_label", "output_name", "ensemble")
_LISTS = ("class_labels", "feature_names")
_OTHERS = ("positive_column", "sample")


class Unregistrable(Exception):
    """Why a file is no model that can be registered, for a person."""


async def seed(catalog: Catalog, models_dir: Path | None) -> Mapping[str, str]:
    """Register every `<name>.onnx` in `models_dir`, with what the JSON file beside it says, and
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
        artifact, digest, said = await asyncio.to_thread(_read, path)
        known = await _versions(catalog.model(path.stem))
        if any((version.digest, version.said) == (digest, said) for version in known):
            return ""
        _, version = await catalog.register_model(path.stem, artifact, said)
    except (Unregistrable, ModelRejected, InvalidRequest, TrialFailed) as error:
        # What ships is a convenience: a controller starts without it, too.
        return str(error)
    log.info("model registered", extra={"model": path.stem, "version": version})
    return ""


async def _seed_iris(catalog: Catalog) -> None:
    file = resources.files("controller.catalog").joinpath("data", "iris.csv")
    content = await asyncio.to_thread(file.read_bytes)
    digest = hashlib.sha256(content).hexdigest()
    known = await _versions(catalog.dataset(IRIS))
    if all(version.digest != digest for version in known):
        await catalog.register_dataset(IRIS, content, Format.CSV)
        log.info("dataset registered", extra={"dataset": IRIS})


async def _versions(named: Awaitable[RegisteredModel | RegisteredDataset]) -> Sequence[Any]:
    """The versions of what has a name; none if nothing has it."""
    try:
        return (await named).versions
    except (ModelNotFound, DatasetNotFound):
        return ()


def _read(path: Path) -> tuple[bytes, str, Said]:
    """An artifact, its SHA-256, and what the file beside it says. Raises Unregistrable."""
    if not is_name(path.stem):
        text = "letters, digits, '.', '_' and '-', at most 128, not starting with '.'"
        raise Unregistrable(f"its name is none of a model: {text}")
    try:
        artifact = path.read_bytes()
    except OSError as error:
        raise Unregistrable(f"it cannot be read: {error.strerror}") from error
    return artifact, hashlib.sha256(artifact).hexdigest(), _beside(path.with_suffix(".json"))


def _beside(path: Path) -> Said:
    """What the file says; nothing if there is no such file. Raises Unregistrable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Said()
    except (OSError, ValueError, RecursionError) as error:
        raise Unregistrable(f"{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise Unregistrable(f"{path.name} must hold a JSON object")
    for key, value in content.items():
        problem = _problem(key, value)
        if problem:
            raise Unregistrable(f"{path.name}: {key}: {problem}")
    said: dict[str, Any] = {key: content[key] for key in _TEXTS if key in content}
    said |= {key: tuple(content[key]) for key in _LISTS if key in content}
    if "positive_column" in content:
        said["positive_column"] = int(content["positive_column"])
    if "sample" in content:
        said["sample"] = tuple(np.array(content["sample"], np.float32).tolist())
    return Said(**said)


def _problem(key: str, value: Any) -> str:
    """What is wrong with a value; empty if nothing is."""
    if key in _TEXTS:
        return "" if _is_text(value) else "a text is wanted"
    if key in _LISTS:
        texts = isinstance(value, list) and all(_is_text(each) for each in value)
        different = texts and len(set(value)) == len(value)
        return "" if different else "a list of different texts is wanted"
    if key == "positive_column":
        return "" if str(value) in ("0", "1") else "0 or 1 is wanted"
    if key == "sample":
        numbers = isinstance(value, list) and all(_is_number(each) for each in value)
        return "" if numbers else "a list of finite numbers is wanted"
    return "" if key in _OTHERS else f"is unknown; known: {', '.join(_TEXTS + _LISTS + _OTHERS)}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 3e38


def _is_text(value: Any) -> bool:
    # JSON can hold halves of characters, which no message can carry.
    return isinstance(value, str) and value != "" and not re.search("[\ud800-\udfff]", value)
