"""The shipped ensembles, really trained: what is published, and that it is whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
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

from scripts import train_models
from scripts.ensembles import ENSEMBLES, Dataset, load_dataset
from scripts.train_models import PARITY_TOLERANCE, artifact_path, fit, main

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
    """One trained ensemble: its folder, its dataset, and what the run printed."""

    output: Path
    dataset: Dataset
    printed: str

    def session(self, class_label: str) -> onnxruntime.InferenceSession:
        """Serve the artifact of a class with plain onnxruntime."""
        path = artifact_path(self.output, self.dataset.ensemble, class_label)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def probabilities(self, class_label: str) -> Any:
        """What the artifact answers for the held-out rows: float32 [n, 2]."""
        rows = self.dataset.rows[self.dataset.held_out].astype(np.float32)
        return self.session(class_label).run(["probabilities"], {"input": rows})[0]

    def metadata(self, class_label: str) -> dict[str, str]:
        """The artifact's metadata properties."""
        path = artifact_path(self.output, self.dataset.ensemble, class_label)
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="session", params=sorted(ENSEMBLES))
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    output = tmp_path_factory.mktemp(request.param)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["--ensemble", request.param, "--output", str(output)]) == 0
    return Published(output, load_dataset(request.param), printed.getvalue())


@pytest.fixture
def earlier(tmp_path: Path) -> dict[Path, bytes]:
    """Artifacts of an earlier iris run in `tmp_path`: contents by path."""
    contents = {
        artifact_path(tmp_path, "iris", label): f"earlier {label}".encode()
        for label in load_dataset("iris").class_labels
    }
    for path, content in contents.items():
        path.write_bytes(content)
    return contents


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_onnx_answers_what_scikit_learn_answers_on_the_whole_held_out_split(
    published: Published,
) -> None:
    dataset = published.dataset
    rows = dataset.rows[dataset.held_out].astype(np.float32).astype(np.float64)
    for class_index, label in enumerate(dataset.class_labels):
        expected = fit(dataset, class_index).predict_proba(rows)
        served = published.probabilities(label)
        assert served.dtype == np.float32
        assert served.shape == (len(dataset.held_out), 2)
        np.testing.assert_allclose(served, expected, rtol=0, atol=PARITY_TOLERANCE)


def test_combined_accuracy_is_above_the_floor_and_is_the_one_reported(published: Published) -> None:
    dataset = published.dataset
    positive = np.stack([published.probabilities(x)[:, 1] for x in dataset.class_labels], axis=1)
    accuracy = np.mean(positive.argmax(axis=1) == dataset.classes[dataset.held_out])
    assert accuracy >= 0.93
    assert f"{accuracy:.4f}" in published.printed.splitlines()[-1]
    for label in dataset.class_labels:
        scores = json.loads(published.metadata(label)["trillium.scores"])
        assert scores["combined_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_progress_names_every_class(published: Published) -> None:
    lines = published.printed.splitlines()[1:-1]
    assert [line.split()[0] for line in lines] == list(published.dataset.class_labels)


def test_held_out_split_is_stratified_and_disjoint_from_the_training_rows() -> None:
    dataset = load_dataset("iris")
    assert not set(dataset.training) & set(dataset.held_out)
    assert len(dataset.training) + len(dataset.held_out) == 150
    assert np.bincount(dataset.classes[dataset.held_out]).tolist() == [15, 15, 15]


def test_artifact_is_valid_onnx_that_older_runtimes_read(published: Published) -> None:
    label = published.dataset.class_labels[0]
    path = artifact_path(published.output, published.dataset.ensemble, label)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert len(versions) == len(model.opset_import)
    assert versions[""] <= 15
    assert model.ir_version <= 8
    (entry,) = published.session(label).get_inputs()
    assert entry.type == "tensor(float)"
    assert not isinstance(entry.shape[0], int)
    assert entry.shape[1] == len(published.dataset.feature_names)


def test_metadata_describes_the_artifact(published: Published) -> None:
    dataset = published.dataset
    for label in dataset.class_labels:
        found = published.metadata(label)
        assert set(found) == KEYS
        assert found["trillium.format"] == "1"
        assert found["trillium.ensemble"] == dataset.ensemble
        assert found["trillium.class_label"] == label
        assert json.loads(found["trillium.class_labels"]) == list(dataset.class_labels)
        assert found["trillium.positive_column"] == "1"
        outputs = {item.name for item in published.session(label).get_outputs()}
        assert found["trillium.output_name"] in outputs
        assert json.loads(found["trillium.feature_names"]) == list(dataset.feature_names)
        assert json.loads(found["trillium.sample"]) == dataset.rows[0].tolist()
        scores = json.loads(found["trillium.scores"])
        assert set(scores) == {"accuracy", "roc_auc", "log_loss", "combined_accuracy"}
        assert all(np.isfinite(score) for score in scores.values())
        versions = json.loads(found["trillium.versions"])
        assert set(versions) == {"python", "scikit-learn", "skl2onnx", "onnx", "numpy"}


def test_metadata_identifies_the_training_set(published: Published) -> None:
    dataset = published.dataset
    found = json.loads(published.metadata(dataset.class_labels[0])["trillium.training_set"])
    content = dataset.rows.astype("<f8").tobytes() + dataset.classes.astype("<i8").tobytes()
    assert found == {
        "name": dataset.ensemble,
        "sha256": hashlib.sha256(content).hexdigest(),
        "row_count": len(dataset.rows),
        "held_out_row_count": len(dataset.held_out),
        "split_seed": 0,
    }


def test_examples_are_held_out_rows_of_every_class(published: Published) -> None:
    dataset = published.dataset
    found = json.loads(published.metadata(dataset.class_labels[-1])["trillium.examples"])
    assert [example["label"] for example in found] == [
        label for label in dataset.class_labels for _ in range(2)
    ]
    held_out = {
        (*dataset.rows[row], dataset.class_labels[dataset.classes[row]]) for row in dataset.held_out
    }
    assert all((*example["features"], example["label"]) in held_out for example in found)


def test_iris_has_the_names_and_the_sample_people_know() -> None:
    dataset = load_dataset("iris")
    assert dataset.class_labels == ("setosa", "versicolor", "virginica")
    assert dataset.feature_names == (
        *("sepal_length_cm", "sepal_width_cm"),
        *("petal_length_cm", "petal_width_cm"),
    )
    assert dataset.rows[0].tolist() == [5.1, 3.5, 1.4, 0.2]


def test_digits_and_wine_keep_their_names() -> None:
    digits, wine = load_dataset("digits"), load_dataset("wine")
    assert digits.class_labels == tuple("0123456789")
    assert (digits.feature_names[0], digits.feature_names[-1]) == ("pixel_0_0", "pixel_7_7")
    assert wine.class_labels == ("class_0", "class_1", "class_2")
    assert wine.feature_names[0] == "alcohol"


def test_another_process_makes_the_same_bytes(published: Published, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "train_models.py"
    subprocess.run(
        [sys.executable, "-W", "error", script, "--ensemble", published.dataset.ensemble],
        cwd=tmp_path,  # so "models", the default output, is made here
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    again = {path.name: content for path, content in files_in(tmp_path / "models").items()}
    assert again == {path.name: content for path, content in files_in(published.output).items()}


def test_if_missing_leaves_a_complete_set_alone(
    earlier: dict[Path, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in earlier}
    assert main(["--output", str(tmp_path), "--if-missing"]) == 0
    assert {path: path.stat().st_mtime_ns for path in earlier} == before
    assert files_in(tmp_path) == earlier
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_if_missing_trains_when_one_artifact_is_missing_or_empty(
    spoil: Any, earlier: dict[Path, bytes], tmp_path: Path
) -> None:
    spoil(list(earlier)[1])
    assert main(["--output", str(tmp_path), "--if-missing"]) == 0
    for path in earlier:
        onnx.checker.check_model(onnx.load(path))


def test_unknown_ensemble_is_refused_by_naming_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ensemble", "tulips", "--output", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message == "Unknown ensemble 'tulips': choose one of iris, digits, wine.\n"
    assert files_in(tmp_path) == {}


def test_output_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["--output", str(file / "models")]) == 1
    assert capsys.readouterr().err == f"Cannot write to {file / 'models'}: Not a directory.\n"


@pytest.fixture(params=["accuracy", "parity", "disk"])
def defect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the next iris run fail, and answer a part of what it should say."""
    if request.param == "accuracy":
        strict = dataclasses.replace(ENSEMBLES["iris"], accuracy_floor=1.01)
        monkeypatch.setitem(ENSEMBLES, "iris", strict)
        yield "below the floor of 1.0100"
    elif request.param == "parity":
        monkeypatch.setattr(train_models, "PARITY_TOLERANCE", 0.0)
        yield "differs from scikit-learn"
    else:
        results: Iterator[None] = iter([None])

        def full_at_the_second_file(descriptor: int) -> None:
            if next(results, descriptor) is not None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full_at_the_second_file)
        yield "No space left on device"


def test_a_run_that_fails_leaves_earlier_artifacts_and_nothing_else(
    defect: str,
    earlier: dict[Path, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--output", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert defect in message
    assert message.count("\n") == 1
    assert files_in(tmp_path) == earlier
    assert all(path.is_file() for path in tmp_path.iterdir())
