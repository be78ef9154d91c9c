"""The catalog, as runs ask it."""

from __future__ import annotations

from ..catalog.catalog import Catalog
from ..catalog.specs import Library
from .labels import KnownClasses
from .source import ScoringData, ScoringModel, ScoringTable


class CatalogSource:
    """Implements `controller.runs.source.Source`."""

    def __init__(self, catalog: Catalog, library: Library) -> None:
        self._catalog = catalog
        self._library = library

    async def model_version(self, model: str, version: int) -> ScoringModel:
        """That version of a model, 0 meaning the newest; raises ModelNotFound."""
        _, found = await self._catalog.model_version(model, version)
        spec = await self._library.spec(model, found.version)
        return ScoringModel(spec, found.feature_count, found.feature_names, found.takes_missing)

    async def classes(self, model: str) -> KnownClasses:
        """What is known of the classes of a model's ensemble; raises ModelNotFound.

        All of them if the model lists them, else its own and those of the ensemble's other models.
        """
        found = await self._catalog.model(model)
        if found.class_labels:
            return KnownClasses(found.ensemble, found.class_labels, are_all=True)
        labels = [found.class_label]
        if found.ensemble:
            async for each in self._catalog.every_model():
                if each.ensemble == found.ensemble:
                    labels += [*each.class_labels, each.class_label]
        return KnownClasses(found.ensemble, tuple(dict.fromkeys(labels)), are_all=False)

    async def dataset(self, dataset: str, version: int) -> ScoringData:
        """That version of a dataset, 0 meaning the newest; raises DatasetNotFound."""
        _, found = await self._catalog.dataset_version(dataset, version)
        names = found.feature_names
        return ScoringData(
            name=dataset,
            version=found.version,
            row_count=found.row_count,
            feature_count=len(names),
            # Names that a file without any was given do not describe its columns.
            feature_names=names if found.has_names else (),
            labelled=found.labelled,
            first_missing=found.first_missing,
        )

    async def rows(self, dataset: str, version: int) -> ScoringTable:
        """All rows of that version; raises DatasetNotFound."""
        _, found = await self._catalog.dataset_version(dataset, version)
        read = await self._catalog.rows(found)
        return ScoringTable(read.rows, read.labels)
