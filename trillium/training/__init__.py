"""Trains an ensemble: a binary one-vs-rest ONNX model for each class of a labelled table.

    >>> from sklearn.datasets import load_iris
    >>> from trillium.training import train
    >>> iris = load_iris()
    >>> labels = iris.target_names[iris.target]
    >>> trained = train(iris.data, labels, ensemble="plants", output="models")
    >>> [each.path.name for each in trained.models]
    ['plants-setosa.onnx', 'plants-versicolor.onnx', 'plants-virginica.onnx']
    >>> print(f"accuracy {trained.accuracy:.2f} on {trained.held_out_row_count} rows held out")
    accuracy 1.00 on 45 rows held out

It needs the extra `train` (`pip install ".[train]"` in a checkout), and imports none of it before
it is called. An artifact describes itself in its `trillium.*` metadata: ensemble, classes, feature
names, a sample, examples, training set and held-out scores. So a predictor needs nothing but the
file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from trillium.training.builtin import BUILTIN, builtin_table
from trillium.training.errors import (
    NotGoodEnough,
    PackagesMissing,
    TableRefused,
    TrainingRefused,
)
from trillium.training.methods import Method, Recipe
from trillium.training.names import artifact_paths, check_ensemble
from trillium.training.packages import check_packages
from trillium.training.table import Table, from_matrix, read_table
from trillium.training.trained import Progress, Trained, TrainedModel

# Importing ONNX Runtime, which `train` does, would begin to send telemetry otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BUILTIN",
    "Method",
    "NotGoodEnough",
    "PackagesMissing",
    "Progress",
    "Table",
    "TableRefused",
    "Trained",
    "TrainedModel",
    "TrainingRefused",
    "artifact_paths",
    "builtin_table",
    "read_table",
    "train",
    "train_table",
]


def train(
    features: Any,
    labels: Any,
    *,
    ensemble: str,
    output: str | PathLike[str],
    feature_names: Sequence[str] = (),
    method: Method | str = Method.CURVED,
    class_weight: str = "",
    calibrate: bool = False,
    accuracy_floor: float = 0.0,
    report: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train one binary model for each class, and publish them together.

    30 % of each class's rows are held out, the same ones every time, and only serve to measure the
    accuracies. Two calls with the same table and package versions write the same bytes.

    Args:
        features: finite numbers, [n, k], as an array or what numpy makes one of; they may be
            missing (NaN) with the method "trees".
        labels: each row's class, a text or a whole number, [n]; 4 rows or more of each.
        ensemble: its name: letters, digits, ".", "_" and "-", at most 64.
        output: folder for `<ensemble>-<class>.onnx`; made if missing.
        feature_names: one for each feature; feature_0, feature_1, … if not given.
        method: "curved" is a small neural network, "linear" a logistic regression, "trees" gradient
            boosting, which takes missing values.
        class_weight: "balanced" has the rows of a class weigh as much together as all others.
        calibrate: correct the probabilities by rows that the models were not fitted on.
        accuracy_floor: lowest combined held-out accuracy, 0 to 1, that may be published.
        report: HTML file to write with the figures and plots of the held-out rows.
        progress: called with the count of trained classes and the count of all.

    Raises:
        TableRefused: the table cannot be trained on.
        NotGoodEnough: the models miss the floor, or ONNX computes another answer than scikit-learn.
        PackagesMissing: the extra `train` is not installed.
        ValueError: there is no such method.
        OSError: `output` cannot be written. Whatever is raised, every artifact in it is whole, old
            or new.
    """
    return train_table(
        from_matrix(features, labels, feature_names, takes_missing=Method(method).takes_missing),
        ensemble=ensemble,
        output=output,
        method=method,
        class_weight=class_weight,
        calibrate=calibrate,
        accuracy_floor=accuracy_floor,
        report=report,
        progress=progress,
    )


def train_table(
    table: Table,
    *,
    ensemble: str,
    output: str | PathLike[str],
    method: Method | str = Method.CURVED,
    class_weight: str = "",
    calibrate: bool = False,
    accuracy_floor: float = 0.0,
    report: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """As `train`, for a table that has been checked already."""
    check_ensemble(ensemble)
    if class_weight not in ("", "balanced"):
        raise ValueError(f"class_weight is {class_weight!r}; expected 'balanced' or nothing")
    recipe = Recipe(Method(method), balanced=bool(class_weight), calibrated=calibrate)
    check_packages()
    from trillium.training.one_vs_rest import train_ensemble

    return train_ensemble(
        ensemble,
        table,
        Path(output),
        recipe=recipe,
        accuracy_floor=accuracy_floor,
        report=None if report is None else Path(report),
        progress=progress,
    )
