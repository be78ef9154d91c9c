"""The column of the class is said, or the same in every reading, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from predictor.columns import with_column_of_key
from predictor.graph import Unusable
from predictor.onnx import Classifier
from tests import artifacts
from tests.artifacts import iris_rows, reference_positive_probabilities, with_trillium_metadata
from trillium.errors import ModelRejected
from trillium.model.declared import DeclaredFacts


def one_vs_rest(targets: Any) -> bytes:
    """A model with ZipMap of iris rows, trained on these targets."""
    model = convert_sklearn(
        LogisticRegression(max_iter=1000).fit(iris_rows(), targets),
        initial_types=[("input", FloatTensorType([None, 4]))],
        target_opset={"": 13, "ai.onnx.ml": 1},
    )
    return bytes(model.SerializeToString())


MARKS: Mapping[str, Callable[[npt.NDArray[np.bool_]], npt.NDArray[Any]]] = {
    "0 and 1": lambda is_class: is_class.astype(np.int64),
    "-1 and 1": lambda is_class: np.where(is_class, 1, -1),
    "1 and 2": lambda is_class: np.where(is_class, 2, 1),
    "texts of 0 and 1": lambda is_class: np.where(is_class, "1", "0"),
    "texts of truth": lambda is_class: np.where(is_class, "True", "False"),
}


@pytest.mark.parametrize("marks", MARKS)
def test_no_class_of_an_ensemble_is_served_with_the_probability_of_its_rest(marks: str) -> None:
    species, rows, refusals = load_iris().target, iris_rows(), []
    for index, label in enumerate(("0", "1", "2", "-1", "False", "True")):
        is_class = species == index % 3
        model = one_vs_rest(MARKS[marks](is_class))
        right = Classifier(model, DeclaredFacts(class_label=label, positive_column=1)).score(rows)
        try:
            answer = Classifier(model, DeclaredFacts(class_label=label)).score(rows)
        except ModelRejected as error:
            refusals.append(error.message)
        else:
            assert answer.tobytes() == right.tobytes()
    assert len(refusals) >= 4
    assert all("--positive-column" in each for each in refusals)


@pytest.mark.parametrize(
    ("keys", "label", "column"),
    [
        ([0, 1], "1", 1),
        ([1, 0], "1", 0),
        ([-1, 1], "1", 1),
        (["False", "True"], "True", 1),
        (["other", "setosa"], "setosa", 1),
        (["setosa", "other"], "setosa", 0),
        (["no", "yes"], "yes", 1),
        (["rest", "0"], "0", 1),
        ([0, 1], "setosa", None),
        ([1, 1], "1", None),
        ([], "1", None),
    ],
)
def test_key_says_the_column_where_every_reading_agrees(
    keys: list[int | str], label: str, column: int | None
) -> None:
    found, inferred = with_column_of_key(DeclaredFacts(class_label=label), keys)
    assert found.positive_column == column
    if column is None:
        assert inferred == ""
    else:
        key = str(keys[column])
        assert inferred == f"the class is column {column} of 2, since ZipMap's key {key!r} names it"


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ([0, 1], "0"),
        ([1, 0], "0"),
        ([-1, 1], "-1"),
        ([3, 7], "3"),
        (["0", "1"], "0"),
        (["0.0", "1.0"], "0.0"),
        (["False", "True"], "False"),
        (["true", "false"], "false"),
        (["nan", "1"], "1"),
        (["no", "yes"], "no"),
        (["rest", "setosa"], "rest"),
    ],
)
def test_key_that_may_be_the_rest_is_refused_with_what_to_set(
    keys: list[int | str], label: str
) -> None:
    at = [str(key) for key in keys].index(label)
    what = f"{at} if key {label} is the class, {1 - at} if it is the rest"
    with pytest.raises(Unusable, match=rf"give --positive-column .*: {what}"):
        with_column_of_key(DeclaredFacts(class_label=label), keys)


def test_column_that_is_said_needs_no_key() -> None:
    said = DeclaredFacts(class_label="0", positive_column=1)
    assert with_column_of_key(said, [0, 1]) == (said, "")


ENSEMBLE = {
    "class_label": "0",
    "class_labels": '["0", "1", "rest"]',
    "positive_column": "1",
}


def test_integer_label_of_an_artifact_that_names_its_column_is_served_as_it_is() -> None:
    model = with_trillium_metadata(artifacts.opset9_svm_zipmap(), **ENSEMBLE)
    answer = Classifier(model, DeclaredFacts()).score(iris_rows())
    expected = reference_positive_probabilities(artifacts.opset9_svm_zipmap(), iris_rows(), 1)
    assert answer.tobytes() == expected.tobytes()


def test_column_of_an_artifact_is_not_served_as_another_class_of_its_ensemble() -> None:
    model = with_trillium_metadata(artifacts.two_column_tensor(), **ENSEMBLE)
    with pytest.raises(ModelRejected, match=r"recognizes class '0', not '1'.*--positive-column"):
        Classifier(model, DeclaredFacts(class_label="1"))
    said = DeclaredFacts(class_label="1", positive_column=0)
    expected = reference_positive_probabilities(model, iris_rows(), 0)
    assert Classifier(model, said).score(iris_rows()).tobytes() == expected.tobytes()
    renamed = DeclaredFacts(class_label="zero", class_labels=("zero", "one"))
    expected = reference_positive_probabilities(model, iris_rows(), 1)
    assert Classifier(model, renamed).score(iris_rows()).tobytes() == expected.tobytes()
