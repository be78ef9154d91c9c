"""What an artifact or a person declares of a model, which its graph does not show. Pure but for
`next_to`, which reads a file.

An artifact of `trillium.training` declares it in its ONNX metadata, under keys that begin with
"trillium.". For another artifact, the facts are in a JSON file next to it, with the same name and
the ending `.json`, or on the command line. The command line overrides the file, and the file
overrides the artifact.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trillium.errors import ModelRejected

_PREFIX = "trillium."
_FORMAT = {"format": "1"}
_LONGEST_SHOWN = 60
_SINGLE_LIMIT = 3e38
"""Numbers up to here are finite in single precision, too."""


@dataclass(frozen=True, slots=True)
class DeclaredFacts:
    """Facts about a model. None and empty values are not declared."""

    ensemble: str = ""
    class_label: str = ""
    class_labels: tuple[str, ...] = ()
    """All classes of the ensemble in metadata order."""
    positive_column: int | None = None
    """The column of the probabilities that belongs to the class: 0 or 1."""
    output_name: str = ""
    """The output of the graph that holds the probabilities."""
    feature_names: tuple[str, ...] = ()
    """In column order."""
    sample: tuple[float, ...] = ()
    """A row to try, in feature order."""
    takes_missing: bool | None = None
    """Whether a value of a row may be missing, which is NaN."""

    def overridden_by(self, other: DeclaredFacts) -> DeclaredFacts:
        """These facts, with everything that `other` declares in their place."""
        return replace(self, **_declared(other))


def _declared(facts: DeclaredFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if value not in (None, "", ())}


def _text(value: Any) -> str:
    try:
        if isinstance(value, str) and value.encode():
            return value
    except UnicodeEncodeError:
        pass  # JSON can hold halves of surrogate pairs, which no message can carry.
    raise ValueError("expected a non-empty string")


def _texts(value: Any) -> tuple[str, ...]:
    try:
        if isinstance(value, list) and len({_text(each) for each in value}) == len(value):
            return tuple(value)
    except ValueError:
        pass
    raise ValueError("expected a list of distinct, non-empty strings")


def _numbers(value: Any) -> tuple[float, ...]:
    def is_finite(number: Any) -> bool:
        return type(number) in (int, float) and abs(number) < _SINGLE_LIMIT

    if not isinstance(value, list) or not all(is_finite(each) for each in value):
        raise ValueError("expected a list of finite numbers")
    # Messages carry single precision: rounded at once, facts stay equal on every way.
    return tuple(array("f", value))


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def column(value: Any) -> int:
    """A column number from JSON or a command line; raises ValueError unless it is 0 or 1."""
    if isinstance(value, bool) or str(value) not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return int(value)


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "ensemble": _text,
    "class_label": _text,
    "class_labels": _texts,
    "positive_column": column,
    "output_name": _text,
    "feature_names": _texts,
    "sample": _numbers,
    "takes_missing": _truth,
}
NAMES = tuple(_PARSERS)
"""The names of all facts."""


def parse(name: str, value: Any) -> Any:
    """The fact `name` from a value of JSON or of a message; raises ValueError with what is wrong:
    "expected ..., got ..."."""
    try:
        return _PARSERS[name](value)
    except ValueError as error:
        text = ascii(value)
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
        raise ValueError(f"{error}, got {shown}") from error


def from_metadata(metadata: Mapping[str, str]) -> tuple[DeclaredFacts, dict[str, str]]:
    """The facts in an artifact's ONNX metadata, and all further entries, without the prefix.

    Raises ModelRejected, which names the wrong key.
    """
    declared: dict[str, Any] = {}
    others: dict[str, str] = {}
    for key, text in metadata.items():
        name = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or name not in NAMES:
            others[name] = text
            continue
        try:
            declared[name] = parse(name, text if _PARSERS[name] is _text else json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ModelRejected(f"the artifact's metadata {key} is wrong: {error}") from error
    return DeclaredFacts(**declared), others


def to_metadata(declared: DeclaredFacts, others: Mapping[str, str]) -> dict[str, str]:
    """The ONNX metadata that `from_metadata` reads."""
    facts = _declared(declared).items()
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts}
    return {f"{_PREFIX}{name}": text for name, text in (_FORMAT | texts | dict(others)).items()}


def next_to(artifact: Path) -> DeclaredFacts:
    """The facts in the JSON file next to an artifact; none if there is no such file.

    Raises ModelRejected if the file is there and wrong.
    """
    path = artifact.with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return DeclaredFacts()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRejected(f"{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelRejected(f"{path.name} is no JSON object")
    declared: dict[str, Any] = {}
    for key, value in content.items():
        if key not in NAMES:
            raise ModelRejected(f"{path.name}: unknown key {key!r}; allowed: {', '.join(NAMES)}")
        try:
            declared[key] = parse(key, value)
        except ValueError as error:
            raise ModelRejected(f"{path.name}: {key}: {error}") from error
    return DeclaredFacts(**declared)
