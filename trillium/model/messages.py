"""The facts and the description of a model as messages, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.violations import Violations

from .declared import NAMES, DeclaredFacts, parse
from .description import ModelDescription

if TYPE_CHECKING:  # A predictor has no use for the controller's messages.
    from trillium.controller.v1.catalog_service_pb2 import RegisterModelHeader

_CLASS_LABELS = "ensemble_class_labels"
"""The one field that has another name than its attribute, `class_labels`."""


def facts_in(
    header: model_pb.LoadModelHeader | RegisterModelHeader, wrong: Violations
) -> DeclaredFacts:
    """The facts that the header of an upload declares; fields that are wrong are added to
    `wrong`."""
    declared: dict[str, Any] = {}
    for field, value in header.ListFields():
        name = "class_labels" if field.name == _CLASS_LABELS else field.name
        if name not in NAMES:
            continue
        try:
            declared[name] = parse(name, value if isinstance(value, int | str) else list(value))
        except ValueError as error:
            wrong.add(f"header.{field.name}", str(error))
    return DeclaredFacts(**declared)


def fields_of(known: DeclaredFacts | ModelDescription) -> dict[str, Any]:
    """The fields of a header that declares these facts, or of the message Model."""
    fields = asdict(known)
    return {_CLASS_LABELS: fields.pop("class_labels"), **fields}


def description_of(model: model_pb.Model) -> ModelDescription:
    """What a predictor reports of its model."""
    return ModelDescription(
        feature_count=model.feature_count,
        class_label=model.class_label,
        feature_names=tuple(model.feature_names),
        ensemble=model.ensemble,
        class_labels=tuple(model.ensemble_class_labels),
        sample=tuple(model.sample),
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        input_dtype=model.input_dtype,
        takes_missing=model.takes_missing,
        inferred=model.inferred,
        metadata=dict(model.metadata),
    )
