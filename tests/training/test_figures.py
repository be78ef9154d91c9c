"""What training reports of each class, and what it warns of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.metrics import precision_recall_fscore_support

from trillium.training import TableRefused, Trained, builtin_table, packages, train
from trillium.training.figures import figures_of
from trillium.training.split import split
from trillium.training.table import from_matrix


def two_heaps(right: int = 12, wrong: int = 300) -> tuple[Any, list[str]]:
    """A rare class and a frequent one that overlap, two features each."""
    random = np.random.default_rng(1)
    rows = np.concatenate(
        [random.normal(1.0, 1.0, (right, 2)), random.normal(-0.5, 1.0, (wrong, 2))]
    )
    return rows, ["rare"] * right + ["frequent"] * wrong


def trained(folder: Path, rows: Any, labels: Any, **options: Any) -> Trained:
    return train(rows, labels, ensemble="e", output=folder, **options)


def test_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    table = builtin_table("wine")
    labels = [table.class_labels[index] for index in table.classes]
    result = trained(tmp_path, table.rows, labels, method="linear")
    held_out = split("e", from_matrix(table.rows, labels))
    rows = held_out.table.rows[held_out.held_out].astype(np.float32)
    truth = held_out.table.classes[held_out.held_out]
    answers = []
    for model in result.models:
        session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
        answers.append(session.run(["probabilities"], {"input": rows})[0][:, 1])
    given = np.argmax(answers, axis=0)
    expected = precision_recall_fscore_support(truth, given)
    found = [(each.precision, each.recall, each.f1, each.support) for each in result.models]
    np.testing.assert_allclose(np.transpose(found), np.array(expected))
    assert result.confusion.sum() == result.held_out_row_count
    assert result.confusion.trace() / result.confusion.sum() == result.accuracy
    facts = {each.key: each.value for each in onnx.load(result.models[0].path).metadata_props}
    scores = json.loads(facts["trillium.scores"])
    assert scores["f1"] == pytest.approx(result.models[0].f1, abs=1e-6)
    assert 0.9 < scores["average_precision"] <= 1


def test_label_that_no_row_is_given_has_no_precision() -> None:
    parts = split("e", from_matrix(np.arange(40.0)[:, None], ["a"] * 20 + ["b"] * 20))
    positive = np.tile(np.array([1, 0], np.float32), (len(parts.held_out), 1))
    first, second = figures_of(parts, positive).classes
    assert (first.recall, second.precision, second.recall, second.f1) == (1, 0, 0, 0)


def test_few_rows_of_a_class_are_warned_of(tmp_path: Path) -> None:
    (warning,) = trained(tmp_path, *two_heaps(), method="linear").warnings
    assert warning == (
        "fewer than 20 rows to train on or held out leave figures to chance: 'rare' (8 and 4)"
    )


def test_columns_of_ids_and_of_labels_are_warned_of(tmp_path: Path) -> None:
    rows, labels = two_heaps(60, 60)
    order = np.random.default_rng(0).permutation(120)
    code = np.array([7.0 if label == "rare" else 3.0 for label in labels])
    table = np.column_stack([rows, order, code, rows.round()])
    names = ("x", "y", "number", "code", "x_rounded", "y_rounded")
    warnings = trained(tmp_path, table, labels, feature_names=names, method="linear").warnings
    assert [re.sub("(: |; ).*", "", warning) for warning in warnings[-2:]] == [
        "columns that look like row numbers or ids",
        "columns whose values each occur with one class alone",
    ]
    assert "'number';" in warnings[-2]
    assert "'code';" in warnings[-1]


def test_balanced_weights_find_more_of_a_rare_class(tmp_path: Path) -> None:
    rows, labels = two_heaps(60, 600)
    plain = trained(tmp_path, rows, labels, method="linear")
    balanced = trained(tmp_path, rows, labels, method="linear", class_weight="balanced")
    rare = [each.models[1] for each in (plain, balanced)]
    assert rare[1].recall > rare[0].recall
    with pytest.raises(TableRefused, match="choose linear or trees"):
        trained(tmp_path, rows, labels, class_weight="balanced")
    with pytest.raises(ValueError, match="class_weight is 'heavy'"):
        trained(tmp_path, rows, labels, class_weight="heavy")


@pytest.mark.parametrize("method", ["linear", "curved", "trees"])
def test_calibrated_models_are_served_as_fitted(method: str, tmp_path: Path) -> None:
    result = trained(tmp_path, *two_heaps(80, 200), method=method, calibrate=True)
    assert all(each.deviation < 1e-5 for each in result.models)
    with pytest.raises(TableRefused, match="2 rows to train on: calibration needs 3"):
        trained(tmp_path, [[0.0], [1.0]] * 4, ["a", "b"] * 4, calibrate=True)


def test_report_needs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "r.html"
    rows, labels = two_heaps(40, 80)
    named = [f"<{label}> & $x" for label in labels]
    trained(tmp_path, rows, named, method="linear", report=path)
    text = path.read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "&lt;rare&gt; &amp; $x" in text
    assert not re.search(r"(src|href)=\"(?!data:)|<script|https?:", text)


def test_report_without_what_plots_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        trained(tmp_path, *two_heaps(), report=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
