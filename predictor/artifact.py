"""What is known of a model beside its graph: from the artifact, a file beside it, or a person.

An artifact of `trillium.training` describes itself in its ONNX metadata, under keys that
begin with "trillium.". For another one, what it lacks stands in a JSON file beside it with the same
name and the ending `.json`, or on the command line. The command line wins over the file, which
wins over the artifact.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trillium.errors import ModelNotFound, ModelRejected

PREFIX = "trillium."


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody says of a model. None and empty mean that it is not said."""

    ensemble: str = ""
    class_label: str = ""
    class_labels: tuple[str, ...] = ()
    """All classes of the ensemble in metadata order."""
    positive_column: int | None = None
    """Which column of the probabilities is the class: 0 or 1."""
    output_name: str = ""
    """Which output of the graph holds the probabilities."""
    feature_names: tuple[str, ...] = ()
    sample: tuple[float, ...] = ()
    """A row to try, in feature order."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further facts, such as training set and held-out scores."""

    def overridden_by(self, other: Facts) -> Facts:
        """These facts, with everything that `other` says put in its place."""
        said = {
            each.name: getattr(other, each.name)
            for each in fields(other)
            if each.name != "others" and getattr(other, each.name) not in (None, "", ())
        }
        return replace(self, **said, others={**self.others, **other.others})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text is wanted")
    value.encode()  # JSON can hold halves of characters, which no message can carry.
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError("a list of texts is wanted")
    if len(set(value)) != len(value):
        raise ValueError("each text may stand there once")
    return tuple(_text(each) for each in value)


def _numbers(value: Any) -> tuple[float, ...]:
    numeric = isinstance(value, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 3e38
        for each in value
    )
    if not numeric:
        raise ValueError("a list of finite numbers is wanted")
    return tuple(float(each) for each in value)


def column(value: Any) -> int:
    """A column number from JSON or a command line; raises ValueError unless it is 0 or 1."""
    if isinstance(value, bool) or str(value) not in ("0", "1"):
        raise ValueError("0 or 1 is wanted")
    return int(value)


def told(**said: Any) -> tuple[Facts, Mapping[str, str]]:
    """The facts that a caller says, by name, and what is wrong with the others of them.

    Empty texts and lists, and None, are not said. Every name but "others" is a fact of `Facts`.
    """
    good: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, value in said.items():
        if value in ("", [], None):
            continue
        try:
            good[name] = _READERS[name](value)
        except ValueError as error:
            wrong[name] = str(error)
    return Facts(**good), wrong


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "ensemble": _text,
    "class_label": _text,
    "class_labels": _texts,
    "positive_column": column,
    "output_name": _text,
    "feature_names": _texts,
    "sample": _numbers,
}
_JSON_IN_METADATA = ("class_labels", "positive_column", "feature_names", "sample")


def from_metadata(metadata: Mapping[str, str]) -> Facts:
    """The facts in an artifact's own metadata; raises ModelRejected and names the bad key."""
    said: dict[str, Any] = {}
    others: dict[str, str] = {}
    for key, text in metadata.items():
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name not in _READERS:
            others[name] = text
            continue
        try:
            said[name] = _READERS[name](json.loads(text) if name in _JSON_IN_METADATA else text)
        except (ValueError, RecursionError) as error:
            raise ModelRejected(f"the artifact's metadata {key} is wrong: {error}") from error
    return Facts(**said, others=others)


def beside(artifact: Path) -> Facts:
    """The facts in the file beside an artifact; none if there is no such file.

    Raises ModelRejected when the file is there and wrong.
    """
    path = artifact.with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Facts()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRejected(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelRejected(f"{path} must hold a JSON object")
    said: dict[str, Any] = {}
    for key, value in content.items():
        if key not in _READERS:
            raise ModelRejected(f"{path}: unknown key {key!r}; allowed: {', '.join(_READERS)}")
        try:
            said[key] = _READERS[key](value)
        except ValueError as error:
            raise ModelRejected(f"{path}: {key}: {error}") from error
    return Facts(**said)


def artifact_names(directory: Path) -> list[str]:
    """The names of the artifacts in `directory`, sorted."""
    return sorted(each.stem for each in directory.glob("*.onnx"))


def find(directory: Path, name: str) -> Path:
    """The artifact of that name in `directory`; raises ModelNotFound and tells what there is."""
    path = directory / f"{name}.onnx"
    if path.is_file():
        return path
    there = ", ".join(artifact_names(directory)) or "none"
    raise ModelNotFound(f"no model {name!r} in the predictor's models directory; there: {there}")
