"""What is known of a model once it is loaded. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_EXAMPLES = "examples"


@dataclass(frozen=True, slots=True)
class Example:
    """A row to score for show."""

    features: tuple[float, ...]
    label: str
    """Its true class; empty if unknown."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a predictor reports of its model. Empty values are unknown."""

    feature_count: int
    class_label: str
    """The class whose probability the model returns."""
    feature_names: tuple[str, ...] = ()
    """In column order: `feature_count` of them, or none."""
    ensemble: str = ""
    class_labels: tuple[str, ...] = ()
    """All classes of the ensemble in metadata order."""
    sample: tuple[float, ...] = ()
    """A row to try, in feature order."""
    name: str = ""
    digest: str = ""
    """SHA-256 of the artifact, hexadecimal."""
    size_bytes: int = 0
    """Of the artifact."""
    takes_missing: bool = False
    """Whether a value of a row may be missing, which is NaN."""
    inferred: str = ""
    """What was not declared and inferred instead, and from what; empty if nothing was."""
    input_dtype: str = ""
    """Of the graph's own input: "FP16", "FP32" or "FP64"."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Further entries of the artifact, such as its training set and held-out scores."""

    @property
    def examples(self) -> tuple[Example, ...]:
        """The artifact's examples; without usable ones the sample alone, or none."""
        try:
            entries: list[dict[str, Any]] = json.loads(self.metadata.get(_EXAMPLES, "[]"))
            examples = tuple(
                Example(tuple(float(value) for value in entry["features"]), str(entry["label"]))
                for entry in entries
            )
        except (ValueError, TypeError, KeyError):
            examples = ()  # What is only for show is no reason to fail.
        # Rounded to what float32 can distinguish, so that 5.1 does not show as 5.0999999.
        sample = tuple(float(f"{value:.7g}") for value in self.sample)
        return examples or ((Example(sample, ""),) if sample else ())


def examples_metadata(examples: Iterable[Example]) -> dict[str, str]:
    """The entry of `ModelDescription.metadata` that `ModelDescription.examples` reads."""
    return {_EXAMPLES: json.dumps([asdict(each) for each in examples])}
