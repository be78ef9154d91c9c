"""The real catalog as the source of models and datasets of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.catalog.catalog import Catalog
from controller.catalog.specs import Library
from controller.runs.catalog_source import CatalogSource
from controller.runs.labels import KnownClasses
from controller.runs.source import fitting_columns
from tests.controller.catalogs import FakeTrial, opened
from trillium.clock import SystemClock
from trillium.errors import DatasetNotFound, InvalidRequest, ModelNotFound
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription

CSV = b"a,b,label\n1,2,x\n3,4,y\n"


def npy(folder: Path, columns: int) -> bytes:
    path = folder / "matrix.npy"
    np.save(path, np.ones((5, columns), np.float32))
    return path.read_bytes()


async def test_the_catalog_tells_runs_what_they_ask(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        trial = FakeTrial(ModelDescription(2, "x", feature_names=("a", "b")))
        catalog = Catalog(store, SystemClock(), trial)
        source = CatalogSource(catalog, Library(catalog))
        await catalog.register_model("m", b"one", DeclaredFacts())
        await catalog.register_model("m", b"two", DeclaredFacts())
        await catalog.register_dataset("d", CSV, None)
        await catalog.register_dataset("n", npy(tmp_path, 2), None)
        await catalog.register_dataset("wide", npy(tmp_path, 3), None)

        newest, first = await source.model_version("m", 0), await source.model_version("m", 1)
        assert (newest.spec.version, first.spec.version) == (2, 1)
        assert (newest.feature_count, newest.feature_names) == (2, ("a", "b"))
        assert newest.spec.class_label == "x"

        named = await source.dataset("d", 0)
        assert (named.version, named.row_count, named.labelled) == (1, 2, True)
        assert named.feature_names == ("a", "b")
        table = await source.rows("d", 1)
        assert (table.rows.tolist(), table.labels) == ([[1, 2], [3, 4]], ("x", "y"))

        unnamed = await source.dataset("n", 1)
        assert (unnamed.feature_count, unnamed.feature_names, unnamed.labelled) == (2, (), False)
        assert (await source.rows("n", 1)).labels is None

        fitting_columns(newest, named)
        fitting_columns(newest, unnamed)
        with pytest.raises(InvalidRequest, match="has 3 feature columns"):
            fitting_columns(newest, await source.dataset("wide", 0))
        with pytest.raises(ModelNotFound):
            await source.model_version("m", 3)
        with pytest.raises(DatasetNotFound):
            await source.dataset("none", 0)


async def test_classes_are_what_the_model_says_or_what_its_ensemble_has(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        catalog = Catalog(store, SystemClock(), FakeTrial(ModelDescription(2, "x")))
        source = CatalogSource(catalog, Library(catalog))
        await catalog.register_model("alone", b"1", DeclaredFacts())
        await catalog.register_model("a", b"2", DeclaredFacts(ensemble="e"))
        await catalog.register_model("other", b"3", DeclaredFacts(ensemble="f"))
        assert await source.classes("alone") == KnownClasses("", ("x",), are_all=False)
        assert await source.classes("a") == KnownClasses("e", ("x",), are_all=False)
        whole = DeclaredFacts(ensemble="e", class_labels=("y", "x", "z"))
        await catalog.register_model("b", b"4", whole)
        assert await source.classes("a") == KnownClasses("e", ("x", "y", "z"), are_all=False)
        assert await source.classes("b") == KnownClasses("e", ("y", "x", "z"), are_all=True)
        with pytest.raises(ModelNotFound):
            await source.classes("none")
