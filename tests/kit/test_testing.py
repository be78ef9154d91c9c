"""The ensembles that users serve in tests of their own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tests.artifacts import one_column_tensor, string_input, with_trillium_metadata
from tests.trained import trained
from trillium.server.process import StartFailed
from trillium.testing import ServedEnsemble, ensemble_fixture, serving
from trillium.training import TableRefused

X, Y = load_iris(return_X_y=True)
NAMES = load_iris().target_names


def classifiers() -> dict[str, Any]:
    return {
        "logistic regression": LogisticRegression(max_iter=1000).fit(X, NAMES[Y]),
        "one against the rest": OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(X, Y),
        "pipeline": make_pipeline(StandardScaler(), RandomForestClassifier(9, random_state=0)).fit(
            X, Y
        ),
        "two classes": LogisticRegression(max_iter=1000).fit(X, Y == 1),
    }


@pytest.mark.parametrize("name", classifiers())
def test_fitted_classifier_answers_what_it_predicts(name: str) -> None:
    classifier = classifiers()[name]
    with serving(classifier, ensemble="plants") as ensemble:
        answer = ensemble.client.predict(X)
        assert answer.ensemble == "plants"
        assert answer.class_labels == tuple(map(str, classifier.classes_))
        expected = classifier.predict_proba(X.astype(np.float32))
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert len(ensemble.predictors) == len(classifier.classes_)
    assert "trillium-testing" not in {thread.name for thread in threading.enumerate()}


def test_files_are_served_by_pattern_and_by_path(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = trained(tmp_path_factory, "iris")
    paths = sorted(folder.glob("*.onnx"))
    for models in (str(folder / "iris-*.onnx"), paths, paths[0]):
        with serving(models) as ensemble:
            assert ensemble.client.predict(X[:3]).probabilities.shape[0] == 3


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"), serving(str(tmp_path / "none-*.onnx")):
        pass
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"), serving([tmp_path / "gone.onnx"]):
        pass
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(with_trillium_metadata(string_input(), class_label="a"))
    with pytest.raises(StartFailed, match=r"wrong\.onnx is refused"), serving(wrong):
        pass
    for classifier in (LogisticRegression(), SVC().fit(X, Y)):
        with pytest.raises(TableRefused, match="expected a fitted classifier"), serving(classifier):
            pass
    assert "trillium-testing" not in {thread.name for thread in threading.enumerate()}


def small() -> Any:
    return LogisticRegression(max_iter=1000).fit(X, NAMES[Y])


made: list[Any] = []


def counted() -> Any:
    made.append(small())
    return made[-1]


plants = ensemble_fixture(counted, scope="module")


def test_fixture_is_served_once(plants: ServedEnsemble) -> None:
    assert plants.client.classify([5.1, 3.5, 1.4, 0.2]).labels == ["setosa"]
    assert len(made) == 1


def test_fixture_is_the_same_in_the_next_test(plants: ServedEnsemble) -> None:
    assert plants.client.classify([6.3, 3.3, 6.0, 2.5]).labels == ["virginica"]
    assert len(made) == 1


def test_facts_beside_a_file_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(one_column_tensor())
    path.with_suffix(".json").write_text('{"class_label": "setosa"}')
    with serving(path) as ensemble:
        assert ensemble.client.metadata().class_labels == ("setosa",)
