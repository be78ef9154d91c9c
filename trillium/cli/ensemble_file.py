"""The file of an ensemble: what `trillium apply` reads. Errors name the place in the file."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trillium.cli.sizes import bytes_of
from trillium.client.ensemble_calls import apply_class
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb

MOST_BYTES = 4 * 2**20
LATEST, PREVIOUS = "latest", "previous"
_KEYS = ("ensemble", "classes", "limits", "traffic", "note", "rollback_window_s")
_CLASS_KEYS = ("label", "model", "replicas", "limits")
_LIMIT_KEYS = ("cpus", "memory")


class FileWrong(ValueError):
    """The file cannot be applied. The text names the place and what is allowed."""


@dataclass(frozen=True, slots=True)
class EnsembleFile:
    """The content of a file."""

    request: pb.ApplyEnsembleRequest
    """Without traffic."""
    artifacts: Mapping[int, Path]
    """Of classes whose model is a file, by their index: to be registered first."""
    traffic: Mapping[int | str, int]
    """Percent by revision, "latest" and "previous"."""


def read(path: Path) -> EnsembleFile:
    """Read a file. Raises FileWrong, OSError."""
    if path.stat().st_size > MOST_BYTES:
        raise FileWrong(f"has more than {MOST_BYTES} bytes")
    try:
        content = yaml.load(path.read_bytes(), _UniqueKeys)
    except yaml.YAMLError as error:
        raise FileWrong(f"is no YAML: {' '.join(str(error).split())}") from error
    whole = _mapping(content, "the file", _KEYS)
    request = pb.ApplyEnsembleRequest(ensemble_id=_text(whole, "ensemble", "ensemble"))
    classes = whole.get("classes")
    if not isinstance(classes, list) or not classes:
        raise FileWrong("classes: is missing or empty; expected a list of classes")
    artifacts = {}
    for index, each in enumerate(classes):
        made, artifact = _class(each, f"classes[{index}]", path.parent)
        request.classes.append(made)
        if artifact is not None:
            artifacts[index] = artifact
    if "limits" in whole:
        request.limits.CopyFrom(_limits(whole["limits"], "limits"))
    if "note" in whole:
        request.note = _text(whole, "note", "note")
    if "rollback_window_s" in whole:
        request.rollback_window_s = _number(whole["rollback_window_s"], "rollback_window_s")
    return EnsembleFile(request, artifacts, dict(_traffic(whole.get("traffic", {}))))


def _class(value: Any, at: str, folder: Path) -> tuple[pb.ApplyClass, Path | None]:
    given = _mapping({"model": value} if isinstance(value, str) else value, at, _CLASS_KEYS)
    model = _text(given, "model", f"{at}.model")
    artifact = folder / model if model.endswith(".onnx") else None
    try:
        made = pb.ApplyClass(model=Path(model).stem) if artifact else apply_class(model)
    except ValueError as error:
        raise FileWrong(f"{at}.model: {error}") from error
    if "label" in given:
        made.class_label = _text(given, "label", f"{at}.label")
    if "replicas" in given:
        made.replica_count = _whole(given["replicas"], f"{at}.replicas", 1, 64)
    if "limits" in given:
        made.limits.CopyFrom(_limits(given["limits"], f"{at}.limits"))
    return made, artifact


def _limits(value: Any, at: str) -> deployment_pb.Limits:
    given = _mapping(value, at, _LIMIT_KEYS)
    limits = deployment_pb.Limits()
    if "cpus" in given:
        limits.cpus = _number(given["cpus"], f"{at}.cpus")
    if "memory" in given:
        memory = bytes_of(str(given["memory"]))
        if memory is None or not 0 <= memory < 2**63:
            raise FileWrong(f"{at}.memory: is {given['memory']!r}; expected a size such as 256MiB")
        limits.memory_bytes = memory
    return limits


def _traffic(value: Any) -> Iterator[tuple[int | str, int]]:
    given = _mapping(value, "traffic", ())
    for name, percent in given.items():
        at = f"traffic.{name}"
        is_number = isinstance(name, int) and not isinstance(name, bool) and 0 < name < 2**32
        if not is_number and name not in (LATEST, PREVIOUS):
            raise FileWrong(f"{at}: expected 'latest', 'previous' or the number of a revision")
        yield name, _whole(percent, at, 1, 100)
    if given and (total := sum(given.values())) != 100:
        raise FileWrong(f"traffic: adds up to {total} %; expected 100")


def _mapping(value: Any, at: str, known: tuple[str, ...]) -> Mapping[Any, Any]:
    """`known` are the keys that are allowed; if it is empty, any is."""
    if not isinstance(value, dict):
        raise FileWrong(f"{at}: is {_kind(value)}; expected keys with values")
    for key in value:
        if known and key not in known:
            raise FileWrong(f"{at}: has the key {key!r}; allowed: {', '.join(known)}")
    return value


def _text(given: Mapping[Any, Any], key: str, at: str) -> str:
    value = given.get(key)
    if value is None:
        raise FileWrong(f"{at}: is missing")
    if not isinstance(value, str):
        # YAML reads no, on, 3 and 1.5 as something else than texts.
        raise FileWrong(f"{at}: is {value!r}, which is {_kind(value)}; put a text in quotes")
    return value


def _whole(value: Any, at: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FileWrong(f"{at}: is {value!r}; expected a whole number from {least} to {most}")
    return value


def _number(value: Any, at: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FileWrong(f"{at}: is {value!r}; expected a number")
    return float(value)


def _kind(value: Any) -> str:
    names = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), "something else")


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice, of which the last would win unseen."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            text = str(getattr(key, "value", ""))
            if text in seen and text != "<<":
                mark = f"line {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key {text!r} is there again in {mark}")
            seen.add(text)
        return super().construct_mapping(node, deep)
