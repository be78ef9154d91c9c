"""What the catalog keeps of models and datasets: values, and the bodies of their records.

A model or dataset is one record with all of its versions; the bytes are separate blobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from trillium.model.declared import DeclaredFacts
from trillium.tables.dialect import Dialect
from trillium.tables.gathering import Choice

from ..store.port import Body
from .datasets import Format, Layout


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    version: int
    """1 and up."""
    digest: str
    """SHA-256 of the artifact."""
    size_bytes: int
    feature_count: int
    feature_names: tuple[str, ...]
    """In column order; empty if unknown."""
    class_label: str
    created: datetime
    declared: DeclaredFacts
    """The facts that were declared when it was registered, and that predictors need, too."""
    takes_missing: bool = False
    """Whether a value of a row may be missing."""
    inferred: str = ""
    """What was inferred instead of declared, and from what; empty if nothing was."""


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model with all of its versions."""

    name: str
    ensemble: str
    """Empty if unknown."""
    class_label: str
    """The same for all versions."""
    class_labels: tuple[str, ...]
    """All classes of the ensemble in order; empty if unknown."""
    versions: tuple[ModelVersion, ...]
    """Oldest first, at least one; their numbers ascend."""
    last_version: int = 0
    """The highest number that was ever given, if that version is deleted."""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One version of a dataset."""

    version: int
    """1 and up."""
    digest: str
    """SHA-256 of the file."""
    size_bytes: int
    row_count: int
    feature_names: tuple[str, ...]
    """In column order; made up for formats without names."""
    labelled: bool
    """Whether the true class of each row is known."""
    created: datetime
    format: Format
    layout: Layout = field(default_factory=Layout)
    """How the file is read."""
    has_names: bool = True
    """Whether the names of the features are the file's own."""
    notes: tuple[str, ...] = ()
    """What was recognized in the file, for a person."""
    first_missing: str = ""
    """Where the first missing value is; empty if there is none."""


@dataclass(frozen=True, slots=True)
class RegisteredDataset:
    """A dataset with all of its versions."""

    name: str
    versions: tuple[DatasetVersion, ...]
    """Oldest first, at least one; their numbers ascend."""


def model_body(model: RegisteredModel) -> Body:
    """The body of a model's record."""
    body = _body(asdict(model))
    for version in body["versions"]:
        version["said"] = version.pop("declared")
    return body


def model_of(name: str, body: Body) -> RegisteredModel:
    """The model that `model_body` made `body` of."""
    return RegisteredModel(
        name=name,
        ensemble=body["ensemble"],
        class_label=body["class_label"],
        class_labels=tuple(body["class_labels"]),
        versions=tuple(_model_version(each) for each in body["versions"]),
        last_version=body.get("last_version", 0),
    )


def dataset_body(dataset: RegisteredDataset) -> Body:
    """The body of a dataset's record."""
    return _body(asdict(dataset))


def dataset_of(name: str, body: Body) -> RegisteredDataset:
    """The dataset that `dataset_body` made `body` of."""
    versions = tuple(_dataset_version(each) for each in body["versions"])
    return RegisteredDataset(name, versions)


def _model_version(body: Body) -> ModelVersion:
    return ModelVersion(
        version=body["version"],
        digest=body["digest"],
        size_bytes=body["size_bytes"],
        feature_count=body["feature_count"],
        feature_names=tuple(body["feature_names"]),
        class_label=body["class_label"],
        created=body["created"],
        declared=_declared(body["said"]),
        takes_missing=body.get("takes_missing", False),
        inferred=body.get("inferred", ""),
    )


def _declared(body: Body) -> DeclaredFacts:
    known: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in body.items()
    }
    return DeclaredFacts(**known)


def _dataset_version(body: Body) -> DatasetVersion:
    return DatasetVersion(
        version=body["version"],
        digest=body["digest"],
        size_bytes=body["size_bytes"],
        row_count=body["row_count"],
        feature_names=tuple(body["feature_names"]),
        labelled=body["labelled"],
        created=body["created"],
        format=Format(body["format"]),
        layout=_layout(body["layout"]) if "layout" in body else Layout(),
        has_names=body.get("has_names", body["format"] != Format.NPY.value),
        notes=tuple(body.get("notes", ())),
        first_missing=body.get("first_missing", ""),
    )


def _layout(body: Body) -> Layout:
    choice = body["choice"]
    return Layout(Choice(choice["label"], tuple(choice["drop"])), Dialect(**body["dialect"]))


def _body(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _storable(value) for key, value in values.items()}


def _storable(value: Any) -> Any:
    """`value` of the kinds that a store takes: lists for tuples, formats by their names."""
    match value:
        case dict():
            return _body(value)
        case tuple() | list():
            return [_storable(each) for each in value]
        case Format():
            return value.value
    return value
