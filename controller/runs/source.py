"""What a run asks of the catalog, and whether a dataset fits a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from controller.deployment import Spec
from controller.runs.labels import KnownClasses
from trillium.errors import InvalidRequest, Violation
from trillium.rows import MAX_VIOLATIONS, Rows


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """One version of a model that scores."""

    spec: Spec
    """To have it deployed; names the version that was found."""
    feature_count: int
    """Values in a row; 0 if unknown."""
    feature_names: tuple[str, ...] = ()
    """In column order; empty if unknown."""


@dataclass(frozen=True, slots=True)
class ScoringData:
    """One version of a dataset that is scored."""

    name: str
    version: int
    row_count: int
    feature_count: int
    feature_names: tuple[str, ...] = ()
    """In column order; empty if they are unknown or made up."""
    labelled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What a version of a dataset holds."""

    rows: Rows
    labels: tuple[str, ...] | None
    """True class of each row; None if the dataset is not labelled."""


class Source(Protocol):
    """Who knows models and datasets. What a version is never changes."""

    async def model_version(self, model: str, version: int) -> ScoringModel:
        """That version of a model, 0 meaning the newest; raises ModelNotFound."""
        ...

    async def classes(self, model: str) -> KnownClasses:
        """What is known of the classes of a model's ensemble; raises ModelNotFound."""
        ...

    async def dataset(self, dataset: str, version: int) -> ScoringData:
        """That version of a dataset, 0 meaning the newest; raises DatasetNotFound."""
        ...

    async def rows(self, dataset: str, version: int) -> Table:
        """All rows of that version; raises DatasetNotFound."""
        ...


def check_fit(model: ScoringModel, data: ScoringData) -> None:
    """Raises InvalidRequest, naming the columns, if the model cannot score the dataset."""
    named = f"model {model.spec.model!r} version {model.spec.version}"
    if model.feature_count and data.feature_count != model.feature_count:
        text = f"has {data.feature_count} feature columns; {named} wants {model.feature_count}"
        raise InvalidRequest.of("dataset", text)
    if not (model.feature_names and data.feature_names):
        return
    pairs = zip(data.feature_names, model.feature_names, strict=False)
    wrong = [
        Violation("dataset", f"column {index} is {has!r}; {named} wants {wants!r} there")
        for index, (has, wants) in enumerate(pairs)
        if has != wants
    ]
    if wrong:
        raise InvalidRequest(wrong[:MAX_VIOLATIONS])
