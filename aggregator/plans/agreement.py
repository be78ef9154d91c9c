"""Whether the models of an ensemble fit together, and what they expect. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trillium.model.description import ModelDescription

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class EnsembleMetadata:
    """What the ensemble expects."""

    ensemble: str
    feature_count: int
    feature_names: tuple[str, ...]
    sample: tuple[float, ...]
    takes_missing: bool = False
    """Whether all models take rows with missing values."""


def agreed(models: Sequence[ModelDescription], ensemble: str) -> EnsembleMetadata:
    """What most of the models declare; ties go to the first in order. `ensemble`, if it is not
    empty, is fixed."""
    count = most_common(model.feature_count for model in models) or 0
    ensemble = ensemble or most_common(model.ensemble for model in models) or ""
    fitting = [m for m in models if m.feature_count == count and m.ensemble in ("", ensemble)]
    names = most_common(model.feature_names for model in fitting) or ()
    samples = (m.sample for m in fitting if m.sample and m.feature_names in ((), names))
    return EnsembleMetadata(
        ensemble=ensemble,
        feature_count=count,
        feature_names=names,
        sample=next(samples, ()),
        takes_missing=bool(fitting) and all(model.takes_missing for model in fitting),
    )


def is_vote_for(model: ModelDescription, expected: EnsembleMetadata) -> bool:
    """Whether one more such model leaves what was agreed on as it is, wherever it stands in the
    order."""
    return (
        model.feature_count == expected.feature_count
        and model.ensemble in ("", expected.ensemble)
        and model.feature_names in ((), expected.feature_names)
        and tuple(model.sample) in ((), expected.sample)
        and (model.takes_missing or not expected.takes_missing)
    )


def misfit(model: ModelDescription, expected: EnsembleMetadata, class_label: str) -> str:
    """Why the model of a predictor of `class_label` does not fit; empty if it does."""
    if model.class_label != class_label:
        return f"its model recognizes {model.class_label!r}, not {class_label!r}"
    if _differ(model.ensemble, expected.ensemble):
        return f"its model is of ensemble {model.ensemble!r}, not {expected.ensemble!r}"
    if model.feature_count != expected.feature_count:
        return f"its model takes {model.feature_count} features, not {expected.feature_count}"
    if _differ(model.feature_names, expected.feature_names):
        return "its model has features of other names or in another order"
    return ""


def most_common(values: Iterable[T]) -> T | None:
    """The most frequent value, the earlier one of two; empty values do not count."""
    counted = Counter(value for value in values if value)
    return max(counted, key=lambda value: counted[value]) if counted else None


def _differ(declared: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether both are known and not the same; what is empty fits everything."""
    return bool(declared) and bool(expected) and declared != expected
