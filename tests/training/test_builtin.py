"""The shipped ensembles, really trained: what is published, and that it is whole or not there."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from trillium.training import BUILTIN, Trained, TrainingRefused, builtin_table, member, train_table
from trillium.training.member import PARITY_TOLERANCE, fit
from trillium.training.methods import Recipe
from trillium.training.split import Split, split

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    f"trillium.{name}"
    for name in (
        *("format", "ensemble", "class_label", "class_labels", "positive_column", "output_name"),
        *("feature_names", "sample", "examples", "training_set", "scores", "versions"),
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """One trained ensemble: its folder, its rows, and what was told of it."""

    output: Path
    split: Split
    told: Trained
    progress: list[tuple[int, int]]

    def path(self, class_label: str) -> Path:
        """Where the artifact of a class is."""
        return self.output / f"{self.split.ensemble}-{class_label}.onnx"

    def session(self, class_label: str) -> onnxruntime.InferenceSession:
        """Serve the artifact of a class with plain onnxruntime."""
        return onnxruntime.InferenceSession(
            self.path(class_label), providers=["CPUExecutionProvider"]
        )

    def probabilities(self, class_label: str) -> Any:
        """What the artifact answers for the held-out rows: float32 [n, 2]."""
        rows = self.split.table.rows[self.split.held_out].astype(np.float32)
        return self.session(class_label).run(["probabilities"], {"input": rows})[0]

    def metadata(self, class_label: str) -> dict[str, str]:
        """The artifact's metadata properties."""
        return {
            entry.key: entry.value for entry in onnx.load(self.path(class_label)).metadata_props
        }


def split_of(ensemble: str) -> Split:
    return split(ensemble, builtin_table(ensemble))


def trained(ensemble: str, output: Path, **options: Any) -> Trained:
    method = BUILTIN[ensemble].method
    table = builtin_table(ensemble)
    return train_table(table, ensemble=ensemble, output=output, method=method, **options)


@pytest.fixture(scope="session", params=sorted(BUILTIN))
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    output = tmp_path_factory.mktemp(request.param)
    progress: list[tuple[int, int]] = []
    told = trained(request.param, output, progress=lambda *counts: progress.append(counts))
    return Published(output, split_of(request.param), told, progress)


@pytest.fixture
def earlier(tmp_path: Path) -> dict[Path, bytes]:
    """Artifacts of an earlier iris run in `tmp_path`: contents by path."""
    contents = {
        tmp_path / f"iris-{label}.onnx": f"earlier {label}".encode()
        for label in ("setosa", "versicolor", "virginica")
    }
    for path, content in contents.items():
        path.write_bytes(content)
    return contents


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_onnx_answers_what_scikit_learn_answers_on_the_whole_held_out_split(
    published: Published,
) -> None:
    parts, table = published.split, published.split.table
    rows = table.rows[parts.held_out].astype(np.float32).astype(np.float64)
    for class_index, label in enumerate(table.class_labels):
        expected = fit(parts, class_index, Recipe(BUILTIN[parts.ensemble].method)).predict_proba(
            rows
        )
        served = published.probabilities(label)
        assert served.dtype == np.float32
        assert served.shape == (len(parts.held_out), 2)
        np.testing.assert_allclose(served, expected, rtol=0, atol=PARITY_TOLERANCE)


def test_combined_accuracy_is_above_the_floor_and_is_the_one_reported(published: Published) -> None:
    parts, table = published.split, published.split.table
    positive = np.stack([published.probabilities(x)[:, 1] for x in table.class_labels], axis=1)
    accuracy = np.mean(positive.argmax(axis=1) == table.classes[parts.held_out])
    assert accuracy >= 0.93
    assert published.told.accuracy == accuracy
    for label in table.class_labels:
        scores = json.loads(published.metadata(label)["trillium.scores"])
        assert scores["combined_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_every_class_is_told_of(published: Published) -> None:
    count = len(published.split.table.class_labels)
    assert published.progress == [(done, count) for done in range(1, count + 1)]
    assert [each.class_label for each in published.told.models] == list(
        published.split.table.class_labels
    )
    assert all(each.converged for each in published.told.models)


def test_held_out_split_is_stratified_and_disjoint_from_the_training_rows() -> None:
    parts = split_of("iris")
    assert not set(parts.training) & set(parts.held_out)
    assert len(parts.training) + len(parts.held_out) == 150
    assert np.bincount(parts.table.classes[parts.held_out]).tolist() == [15, 15, 15]


def test_artifact_is_valid_onnx_that_older_runtimes_read(published: Published) -> None:
    label = published.split.table.class_labels[0]
    model = onnx.load(published.path(label))
    onnx.checker.check_model(model, full_check=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert len(versions) == len(model.opset_import)
    assert versions[""] <= 15
    assert model.ir_version <= 8
    (entry,) = published.session(label).get_inputs()
    assert entry.type == "tensor(float)"
    assert not isinstance(entry.shape[0], int)
    assert entry.shape[1] == len(published.split.table.feature_names)


def test_metadata_describes_the_artifact(published: Published) -> None:
    table = published.split.table
    for label in table.class_labels:
        found = published.metadata(label)
        assert set(found) == KEYS
        assert found["trillium.format"] == "1"
        assert found["trillium.ensemble"] == published.split.ensemble
        assert found["trillium.class_label"] == label
        assert json.loads(found["trillium.class_labels"]) == list(table.class_labels)
        assert found["trillium.positive_column"] == "1"
        outputs = {item.name for item in published.session(label).get_outputs()}
        assert found["trillium.output_name"] in outputs
        assert json.loads(found["trillium.feature_names"]) == list(table.feature_names)
        assert json.loads(found["trillium.sample"]) == table.rows[0].tolist()
        scores = json.loads(found["trillium.scores"])
        assert set(scores) == {
            "accuracy",
            "average_precision",
            "combined_accuracy",
            "f1",
            "log_loss",
            "precision",
            "recall",
            "roc_auc",
        }
        assert all(np.isfinite(score) for score in scores.values())
        versions = json.loads(found["trillium.versions"])
        assert set(versions) == {"python", "scikit-learn", "skl2onnx", "onnx", "numpy"}


def test_metadata_identifies_the_training_set(published: Published) -> None:
    table = published.split.table
    found = json.loads(published.metadata(table.class_labels[0])["trillium.training_set"])
    content = table.rows.astype("<f8").tobytes() + table.classes.astype("<i8").tobytes()
    assert found == {
        "name": published.split.ensemble,
        "sha256": hashlib.sha256(content).hexdigest(),
        "row_count": len(table.rows),
        "held_out_row_count": len(published.split.held_out),
        "split_seed": 0,
    }


def test_examples_are_held_out_rows_of_every_class(published: Published) -> None:
    parts, table = published.split, published.split.table
    found = json.loads(published.metadata(table.class_labels[-1])["trillium.examples"])
    assert [example["label"] for example in found] == [
        label for label in table.class_labels for _ in range(2)
    ]
    held_out = {
        (*table.rows[row], table.class_labels[table.classes[row]]) for row in parts.held_out
    }
    assert all((*example["features"], example["label"]) in held_out for example in found)


def test_iris_has_the_names_and_the_sample_people_know() -> None:
    dataset = builtin_table("iris")
    assert dataset.class_labels == ("setosa", "versicolor", "virginica")
    assert dataset.feature_names == (
        *("sepal_length_cm", "sepal_width_cm"),
        *("petal_length_cm", "petal_width_cm"),
    )
    assert dataset.rows[0].tolist() == [5.1, 3.5, 1.4, 0.2]


def test_digits_and_wine_keep_their_names() -> None:
    digits, wine = builtin_table("digits"), builtin_table("wine")
    assert digits.class_labels == tuple("0123456789")
    assert (digits.feature_names[0], digits.feature_names[-1]) == ("pixel_0_0", "pixel_7_7")
    assert wine.class_labels == ("class_0", "class_1", "class_2")
    assert wine.feature_names[0] == "alcohol"


@pytest.mark.parametrize(
    "published",
    ["iris", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("digits", "wine"))],
    indirect=True,
)
def test_another_process_makes_the_same_bytes(published: Published, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "trillium", "models", "train"]
    subprocess.run(
        [*command, "--builtin", published.split.ensemble],
        cwd=tmp_path,  # so "models", the default output, is made here
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    again = {path.name: content for path, content in files_in(tmp_path / "models").items()}
    assert again == {path.name: content for path, content in files_in(published.output).items()}


@pytest.fixture(params=["accuracy", "parity", "disk"])
def defect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the next iris run fail, and answer a part of what it should say."""
    if request.param == "accuracy":
        yield "below the floor of 1.0100"
    elif request.param == "parity":
        monkeypatch.setattr(member, "PARITY_TOLERANCE", 0.0)
        yield "differs from scikit-learn"
    else:
        results: Iterator[None] = iter([None])

        def full_at_the_second_file(descriptor: int) -> None:
            if next(results, descriptor) is not None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full_at_the_second_file)
        yield "No space left on device"


def test_a_run_that_fails_leaves_earlier_artifacts_and_nothing_else(
    defect: str, earlier: dict[Path, bytes], tmp_path: Path
) -> None:
    floor = 1.01 if "floor" in defect else 0.0
    with pytest.raises((TrainingRefused, OSError), match=defect):
        trained("iris", tmp_path, accuracy_floor=floor)
    assert files_in(tmp_path) == earlier
    assert all(path.is_file() for path in tmp_path.iterdir())
