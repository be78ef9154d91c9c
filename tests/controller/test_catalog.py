"""What the catalog keeps, and what it does when several register at once or the store fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.catalog.catalog import Catalog
from controller.catalog.datasets import Format
from controller.catalog.seeding import seed
from controller.catalog.trial import TrialFailed
from controller.store.port import Kind, StoreUnavailable
from controller.store.sqlite import SqliteStore
from tests.controller.catalogs import FakeTrial, digest_of, opened
from trillium.clock import SystemClock
from trillium.errors import (
    DatasetNotFound,
    InvalidRequest,
    ModelNotFound,
    ModelRejected,
)
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription

SETOSA = DeclaredFacts(class_label="setosa", positive_column=1)
ROWS = b"a,b,label\n1,2,x\n3,4,y\n"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "store.db") as store:
        yield store


@pytest.fixture
def trial() -> FakeTrial:
    names = ("a", "b", "c", "d")
    return FakeTrial(ModelDescription(4, "setosa", names, "iris", ("setosa", "virginica")))


@pytest.fixture
def catalog(store: SqliteStore, trial: FakeTrial) -> Catalog:
    return Catalog(store, SystemClock(), trial)


async def test_model_is_kept_with_all_that_deploying_it_takes(
    catalog: Catalog, store: SqliteStore
) -> None:
    said = DeclaredFacts(class_label="setosa", positive_column=0, output_name="p")
    before = datetime.now(UTC)
    model, number = await catalog.register_model("iris-setosa", b"artifact", said)
    assert number == 1
    assert (model.name, model.ensemble, model.class_label) == ("iris-setosa", "iris", "setosa")
    assert model.class_labels == ("setosa", "virginica")
    (version,) = model.versions
    assert (version.version, version.digest) == (1, digest_of(b"artifact"))
    assert (version.size_bytes, version.feature_count) == (8, 4)
    assert version.feature_names == ("a", "b", "c", "d")
    assert (
        version.class_label,
        version.declared.positive_column,
        version.declared.output_name,
    ) == (
        "setosa",
        0,
        "p",
    )
    assert abs((version.created - before).total_seconds()) < 10
    other = Catalog(store, SystemClock(), FakeTrial())
    assert await other.model("iris-setosa") == model
    assert await other.model_version("iris-setosa", 0) == (model, version)
    assert await other.artifact(version.digest) == b"artifact"


async def test_versions_are_added_and_each_can_be_had(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        model, version = await catalog.register_model("m", f"artifact {number}".encode(), SETOSA)
        assert version == len(model.versions) == number
    _, newest = await catalog.model_version("m")
    assert newest.version == 3
    _, first = await catalog.model_version("m", 1)
    assert await catalog.artifact(first.digest) == b"artifact 1"


async def test_newest_version_is_not_registered_twice(catalog: Catalog, trial: FakeTrial) -> None:
    first = await catalog.register_model("m", b"artifact", SETOSA)
    assert await catalog.register_model("m", b"artifact", SETOSA) == first
    assert trial.asked == ["m"]
    _, other_said = await catalog.register_model(
        "m", b"artifact", DeclaredFacts(class_label="setosa", positive_column=0)
    )
    assert other_said == 2
    _, again = await catalog.register_model("m", b"artifact", SETOSA)
    assert again == 3


async def test_what_is_not_there_is_answered_with_what_is(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="no model 'm'; there: none"):
        await catalog.model("m")
    for name in ("m", "a"):
        await catalog.register_model(name, b"artifact", SETOSA)
        await catalog.register_dataset(name, ROWS, None)
    with pytest.raises(ModelNotFound, match="no model 'x'; there: a, m"):
        await catalog.model_version("x")
    with pytest.raises(ModelNotFound, match="'m' has no version 2; there: 1 to 1"):
        await catalog.model_version("m", 2)
    with pytest.raises(ModelNotFound, match="no artifact"):
        await catalog.artifact("0" * 64)
    with pytest.raises(DatasetNotFound, match="no dataset 'x'; there: a, m"):
        await catalog.dataset("x")
    with pytest.raises(DatasetNotFound, match="'m' has no version 9; there: 1 to 1"):
        await catalog.dataset_version("m", 9)
    there = (await catalog.dataset("m")).versions[0]
    with pytest.raises(DatasetNotFound, match="no file"):
        await catalog.rows(replace(there, digest="0" * 64))
    for odd in ("", "../m", "x" * 1000, "a\0b", "\ud800"):
        with pytest.raises(ModelNotFound):
            await catalog.model(odd)
        with pytest.raises(DatasetNotFound):
            await catalog.dataset(odd)


async def test_many_names_are_told_in_part(catalog: Catalog) -> None:
    for number in range(30):
        await catalog.register_dataset(f"d{number:02}", ROWS, None)
    with pytest.raises(DatasetNotFound, match=r"d00, .*, d19 and more$"):
        await catalog.dataset("x")
    page = await catalog.datasets(after="d09", limit=3)
    assert [each.name for each in page] == ["d10", "d11", "d12"]


async def test_another_class_is_refused(catalog: Catalog, trial: FakeTrial) -> None:
    await catalog.register_model("m", b"artifact", SETOSA)
    with pytest.raises(InvalidRequest, match="'virginica', but 'm' recognises 'setosa'") as caught:
        await catalog.register_model("m", b"other", DeclaredFacts(class_label="virginica"))
    assert caught.value.violations[0].field == "header.class_label"
    assert trial.asked == ["m"]
    trial.description = ModelDescription(4, "virginica")
    with pytest.raises(InvalidRequest, match="'virginica', but 'm' recognises 'setosa'"):
        await catalog.register_model("m", b"other", DeclaredFacts())
    assert len((await catalog.model("m")).versions) == 1


async def test_refused_model_leaves_nothing_behind(
    catalog: Catalog, store: SqliteStore, trial: FakeTrial
) -> None:
    trial.error = ModelRejected("it is a regression")
    with pytest.raises(ModelRejected):
        await catalog.register_model("m", b"artifact", SETOSA)
    assert await catalog.models() == []
    assert await store.get_blob(digest_of(b"artifact")) is None
    for name in ("", "../m", ".m", "m" * 129, "a/b"):
        with pytest.raises(InvalidRequest, match=r"header\.name"):
            await catalog.register_model(name, b"artifact", SETOSA)
        with pytest.raises(InvalidRequest, match=r"header\.name"):
            await catalog.register_dataset(name, ROWS, None)


async def test_all_who_register_at_once_get_versions_of_their_own(
    catalog: Catalog, store: SqliteStore
) -> None:
    other = Catalog(store, SystemClock(), FakeTrial())
    answers = await asyncio.gather(
        *(
            each.register_model("m", f"artifact {number}".encode(), SETOSA)
            for number in range(10)
            for each in (catalog, other)
        )
    )
    model = await catalog.model("m")
    numbers = [version.version for version in model.versions]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len({version.digest for version in model.versions}) == 10
    for number, (_, version) in enumerate(answers):
        artifact = f"artifact {number // 2}".encode()
        assert model.versions[version - 1].digest == digest_of(artifact)


async def test_same_artifact_at_once_is_one_version(catalog: Catalog) -> None:
    uploads = [catalog.register_model("m", b"artifact", SETOSA) for _ in range(20)]
    assert {version for _, version in await asyncio.gather(*uploads)} == {1}
    files = [catalog.register_dataset("d", ROWS, None) for _ in range(20)]
    assert {version for _, version in await asyncio.gather(*files)} == {1}


class FailsOnce(SqliteStore):
    """Does not answer the first time that a record is to be written."""

    failed = False

    async def create(self, kind: Kind, id: str, body: Any, **more: Any) -> Any:
        if not self.failed:
            self.failed = True
            raise StoreUnavailable("the line was cut")
        return await super().create(kind, id, body, **more)


async def test_bytes_are_there_before_the_record_and_repeating_heals(tmp_path: Path) -> None:
    store = FailsOnce(tmp_path / "store.db")
    await store.open()
    try:
        catalog = Catalog(store, SystemClock(), FakeTrial())
        with pytest.raises(StoreUnavailable):
            await catalog.register_model("m", b"artifact", SETOSA)
        assert await catalog.models() == []
        assert await catalog.artifact(digest_of(b"artifact")) == b"artifact"
        _, version = await catalog.register_model("m", b"artifact", SETOSA)
        assert version == 1
    finally:
        await store.close()


async def test_record_that_is_full_is_told(catalog: Catalog, trial: FakeTrial) -> None:
    names = tuple(f"{number:0200}" for number in range(30_000))
    trial.description = ModelDescription(len(names), "setosa", names)
    await catalog.register_model("m", b"artifact 1", SETOSA)
    with pytest.raises(InvalidRequest, match="'m' has no room for one more version"):
        await catalog.register_model("m", b"artifact 2", SETOSA)
    assert len((await catalog.model("m")).versions) == 1


async def test_dataset_is_kept_and_read_again(catalog: Catalog) -> None:
    dataset, number = await catalog.register_dataset("flowers", ROWS, None)
    assert number == 1
    (version,) = dataset.versions
    assert (version.digest, version.size_bytes) == (digest_of(ROWS), len(ROWS))
    assert (version.row_count, version.feature_names) == (2, ("a", "b"))
    assert (version.labelled, version.format) == (True, Format.CSV)
    assert await catalog.dataset_version("flowers") == (dataset, version)
    rows = await catalog.rows(version)
    assert rows.rows.tolist() == [[1, 2], [3, 4]]
    assert rows.labels == ("x", "y")
    assert await catalog.register_dataset("flowers", ROWS, Format.CSV) == (dataset, 1)
    _, second = await catalog.register_dataset("flowers", b"a\n1\n", None)
    assert second == 2
    assert (await catalog.dataset_version("flowers"))[1].labelled is False


async def test_refused_dataset_leaves_nothing_behind(catalog: Catalog, store: SqliteStore) -> None:
    with pytest.raises(InvalidRequest):
        await catalog.register_dataset("flowers", b"a\nx\n", None)
    assert await catalog.datasets() == []
    assert await store.get_blob(digest_of(b"a\nx\n")) is None


async def test_seeding_registers_a_folder_and_iris_once(
    catalog: Catalog, trial: FakeTrial, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(b"artifact")
    (folder / "n.onnx").write_bytes(b"another")
    facts = {
        "class_label": "setosa",
        "positive_column": 0,
        "output_name": "p",
        "ensemble": "flowers",
        "class_labels": ["rose", "setosa"],
        "feature_names": ["w", "x", "y", "z"],
        "sample": [1, 2, 3, 4],
    }
    (folder / "n.json").write_text(json.dumps(facts), encoding="utf-8")
    assert await seed(catalog, folder) == {}
    assert [model.name for model in await catalog.models()] == ["m", "n"]
    model, version = await catalog.model_version("n")
    assert (model.ensemble, model.class_labels) == ("flowers", ("rose", "setosa"))
    assert version.feature_names == ("w", "x", "y", "z")
    assert (version.declared.positive_column, version.declared.output_name) == (0, "p")
    assert version.declared.sample == (1.0, 2.0, 3.0, 4.0)
    _, iris = await catalog.dataset_version("iris")
    assert (iris.row_count, iris.labelled) == (150, True)
    assert sorted(trial.asked) == ["m", "n"]

    assert await seed(catalog, folder) == await seed(catalog, None) == {}
    assert sorted(trial.asked) == ["m", "n"]
    assert len((await catalog.dataset("iris")).versions) == 1


async def test_seeding_leaves_newer_versions_the_newest(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"artifact")
    await seed(catalog, tmp_path)
    await catalog.register_model("m", b"newer", SETOSA)
    await catalog.register_dataset("iris", ROWS, None)
    await seed(catalog, tmp_path)
    assert (await catalog.model_version("m"))[1].digest == digest_of(b"newer")
    assert (await catalog.dataset_version("iris"))[1].digest == digest_of(ROWS)
    (tmp_path / "m.onnx").write_bytes(b"newest")
    await seed(catalog, tmp_path)
    assert (await catalog.model_version("m"))[1].digest == digest_of(b"newest")


BESIDE = {
    "list.json": ("[]", "is no JSON object"),
    "broken.json": ("{", "cannot be read as JSON"),
    "key.json": (
        '{"colour": "red"}',
        "key.json: unknown key 'colour'; allowed: ensemble",
    ),
    "text.json": ('{"class_label": 7}', "class_label: expected a non-empty string"),
    "half.json": ('{"class_label": "\\ud800"}', "class_label: expected a non-empty string"),
    "twice.json": ('{"class_labels": ["a", "a"]}', "class_labels: expected a list of distinct"),
    "column.json": ('{"positive_column": true}', "positive_column: expected 0 or 1"),
    "names.json": ('{"feature_names": ["a"]}', "feature_names: are 1; the model takes 4"),
}


async def test_files_that_are_no_models_are_told_and_hold_up_nothing(
    catalog: Catalog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, (text, _) in BESIDE.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).with_suffix(".onnx").write_bytes(b"artifact")
    (tmp_path / "sound.onnx").write_bytes(b"artifact")
    (tmp_path / "two words.onnx").write_bytes(b"artifact")
    (tmp_path / "folder.onnx").mkdir()
    refused = await seed(catalog, tmp_path)
    assert [model.name for model in await catalog.models()] == ["sound"]
    assert len(refused) == len(BESIDE) + 2
    for name, (_, reason) in BESIDE.items():
        assert reason in refused[name.replace(".json", ".onnx")]
    assert "name is none of a model" in refused["two words.onnx"]
    assert "cannot be read" in refused["folder.onnx"]
    told = [record for record in caplog.records if record.message == "model not registered"]
    assert len(told) == len(refused)


class NoPredictor:
    """A trial on a machine that cannot start predictors."""

    async def describe(
        self, name: str, artifact: bytes, digest: str, said: DeclaredFacts
    ) -> ModelDescription:
        raise TrialFailed("no predictor can be started")


async def test_seeding_goes_on_without_predictors_but_not_without_the_store(
    store: SqliteStore, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"artifact")
    catalog = Catalog(store, SystemClock(), NoPredictor())
    assert await seed(catalog, tmp_path) == {"m.onnx": "no predictor can be started"}
    assert [each.name for each in await catalog.datasets()] == ["iris"]
    await store.close()
    with pytest.raises(StoreUnavailable):
        await seed(catalog, tmp_path)
