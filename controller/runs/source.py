"""What a run asks of the catalog, and whether a dataset fits a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trillium.errors import InvalidRequest
from trillium.rows import Rows
from trillium.tables.columns import exact_places

from ..deployments.document import Spec
from .labels import KnownClasses


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """One version of a model that scores."""

    spec: Spec
    """To have it deployed; names the version that was found."""
    feature_count: int
    """Values in a row; 0 if unknown."""
    feature_names: tuple[str, ...] = ()
    """In column order; empty if unknown."""
    takes_missing: bool = False
    """Whether a value of a row may be missing."""


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
    first_missing: str = ""
    """Where the first missing value is; empty if there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoringTable:
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

    async def rows(self, dataset: str, version: int) -> ScoringTable:
        """All rows of that version; raises DatasetNotFound."""
        ...


def fitting_columns(model: ScoringModel, data: ScoringData) -> Sequence[int]:
    """Where the model's features are among the dataset's: by name, in any order, where both have
    names, and as they stand otherwise.

    Raises InvalidRequest, naming the columns, if the model cannot score the dataset.
    """
    named = f"model {model.spec.model!r} version {model.spec.version}"
    if data.first_missing and not model.takes_missing:
        text = f"has a missing value in {data.first_missing}; {named} takes no missing values"
        raise InvalidRequest.of("dataset", text)
    if model.feature_names and data.feature_names:
        try:
            return exact_places(data.feature_names, model.feature_names)
        except ValueError as error:
            text = f"does not fit {named}: {error}; register it with the right names, and drop the"
            raise InvalidRequest.of("dataset", f"{text} columns that are no features") from error
    if model.feature_count and data.feature_count != model.feature_count:
        text = f"has {data.feature_count} feature columns; {named} wants {model.feature_count}"
        raise InvalidRequest.of("dataset", text)
    return range(data.feature_count)
