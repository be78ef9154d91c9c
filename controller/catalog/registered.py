"""What the catalog keeps of models and datasets: values, and the bodies of their records.

A model or dataset is one record with all of its versions; the bytes are blobs beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from controller.catalog.datasets import Format
from controller.predictors import Artifact
from controller.store.port import Body


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says of a model beside its artifact, for predictors, too. None and empty mean:
    not said."""

    class_label: str = ""
    positive_column: int | None = None
    """Which column of the probabilities is the class: 0 or 1."""
    output_name: str = ""
    """Which output of the graph holds the probabilities."""
    ensemble: str = ""
    class_labels: tuple[str, ...] = ()
    """All classes of the ensemble in order."""
    feature_names: tuple[str, ...] = ()
    sample: tuple[float, ...] = ()
    """A row to try, in feature order; numbers of single precision."""

    def artifact(self, name: str, digest: str, content: bytes) -> Artifact:
        """An artifact as predictors are given it, with all that is said here."""
        return Artifact(
            name=name,
            digest=digest,
            content=content,
            class_label=self.class_label,
            positive_column=self.positive_column,
            output_name=self.output_name,
            ensemble=self.ensemble,
            class_labels=self.class_labels,
            feature_names=self.feature_names,
            sample=self.sample,
        )


@dataclass(frozen=True, slots=True)
class Described:
    """What a predictor says of a model that it has loaded."""

    feature_count: int
    class_label: str
    feature_names: tuple[str, ...] = ()
    ensemble: str = ""
    class_labels: tuple[str, ...] = ()


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
    said: Said
    """What was said when it was registered, and has to be said to predictors again."""


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
    """1, 2, 3 and so on; at least one."""


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


@dataclass(frozen=True, slots=True)
class RegisteredDataset:
    """A dataset with all of its versions."""

    name: str
    versions: tuple[DatasetVersion, ...]
    """1, 2, 3 and so on; at least one."""


def model_body(model: RegisteredModel) -> Body:
    """The body of a model's record."""
    return _body(asdict(model))


def model_of(body: Body) -> RegisteredModel:
    """The model that `model_body` made `body` of."""
    return RegisteredModel(
        name=body["name"],
        ensemble=body["ensemble"],
        class_label=body["class_label"],
        class_labels=tuple(body["class_labels"]),
        versions=tuple(_model_version(each) for each in body["versions"]),
    )


def dataset_body(dataset: RegisteredDataset) -> Body:
    """The body of a dataset's record."""
    return _body(asdict(dataset))


def dataset_of(body: Body) -> RegisteredDataset:
    """The dataset that `dataset_body` made `body` of."""
    versions = tuple(_dataset_version(each) for each in body["versions"])
    return RegisteredDataset(body["name"], versions)


def _model_version(body: Body) -> ModelVersion:
    said = body["said"]
    return ModelVersion(
        version=body["version"],
        digest=body["digest"],
        size_bytes=body["size_bytes"],
        feature_count=body["feature_count"],
        feature_names=tuple(body["feature_names"]),
        class_label=body["class_label"],
        created=body["created"],
        said=Said(
            class_label=said["class_label"],
            positive_column=said["positive_column"],
            output_name=said["output_name"],
            ensemble=said["ensemble"],
            class_labels=tuple(said["class_labels"]),
            feature_names=tuple(said["feature_names"]),
            sample=tuple(said.get("sample", ())),
        ),
    )


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
    )


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
