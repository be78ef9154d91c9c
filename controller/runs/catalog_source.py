"""The catalog, as runs ask it."""

from __future__ import annotations

from controller.catalog.catalog import Catalog
from controller.catalog.datasets import Format
from controller.catalog.specs import Library
from controller.runs.labels import KnownClasses
from controller.runs.source import ScoringData, ScoringModel, Table


class CatalogSource:
    """Implements `controller.runs.source.Source`."""

    def __init__(self, catalog: Catalog, library: Library) -> None:
        self._catalog = catalog
        self._library = library

    async def model_version(self, model: str, version: int) -> ScoringModel:
        """That version of a model, 0 meaning the newest; raises ModelNotFound."""
        _, found = await self._catalog.model_version(model, version)
        spec = await self._library.spec(model, found.version)
        return ScoringModel(spec, found.feature_count, found.feature_names)

    async def classes(self, model: str) -> KnownClasses:
        """What is known of the classes of a model's ensemble; raises ModelNotFound.

        All of them if the model says so, or else its own and those of other models of the ensemble.
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
            # A matrix has no names; those that it was given say nothing of the columns.
            feature_names=() if found.format is Format.NPY else names,
            labelled=found.labelled,
        )

    async def rows(self, dataset: str, version: int) -> Table:
        """All rows of that version; raises DatasetNotFound."""
        _, found = await self._catalog.dataset_version(dataset, version)
        read = await self._catalog.rows(found.digest, found.format)
        return Table(read.rows, read.labels)
