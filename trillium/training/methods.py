"""How a binary classifier is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from trillium.training.errors import TableRefused

CALIBRATION_PARTS = 3
"""The training rows are cut into so many parts, each of which corrects what the others fitted."""


class Method(StrEnum):
    """The shape of what parts a class from the rest."""

    LINEAR = "linear"
    CURVED = "curved"
    TREES = "trees"

    @property
    def takes_missing(self) -> bool:
        """Whether a value of a row may be missing, in training and later."""
        return self is Method.TREES


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the classifiers of an ensemble are fitted."""

    method: Method = Method.CURVED
    balanced: bool = False
    """Whether the rows of the class weigh as much together as all others."""
    calibrated: bool = False
    """Whether the probabilities are corrected by rows that the classifier was not fitted on."""

    def check(self, least_rows: int) -> None:
        """Raises TableRefused for what the method cannot do with `least_rows` rows of the smallest
        class to train on."""
        if self.balanced and self.method is Method.CURVED:
            text = (
                "balanced class weights are not known to the method curved: choose linear or trees"
            )
            raise TableRefused(text)
        if self.calibrated and least_rows < CALIBRATION_PARTS:
            text = f"the smallest class has {least_rows} rows to train on: calibration needs"
            raise TableRefused(f"{text} {CALIBRATION_PARTS} of each class")


def estimator(recipe: Recipe) -> Any:
    """A fresh, seeded, unfitted scikit-learn pipeline."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weight = "balanced" if recipe.balanced else None
    match recipe.method:
        case Method.LINEAR:
            steps = [StandardScaler(), _linear(weight)]
        case Method.CURVED:
            steps = [StandardScaler(), _curved()]
        case _:
            steps = [_trees(weight)]
    if recipe.calibrated:
        steps[-1] = CalibratedClassifierCV(steps[-1], cv=CALIBRATION_PARTS)
    return make_pipeline(*steps)


def has_converged(fitted: Any, recipe: Recipe) -> bool:
    """Whether fitting ended by itself, and not at its limit of steps."""
    if recipe.method is Method.TREES:
        return True  # Boosting always makes the same number of trees.
    last = fitted[-1]
    every = (
        [each.estimator for each in last.calibrated_classifiers_] if recipe.calibrated else [last]
    )
    return all(int(np.max(each.n_iter_)) < each.max_iter for each in every)


def _linear(weight: str | None) -> Any:
    """A logistic regression: two ONNX nodes with its scaling."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight=weight, max_iter=2000)


def _trees(weight: str | None) -> Any:
    """Gradient boosting of small trees, which asks at each node on which side missing values go."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(class_weight=weight, early_stopping=False, random_state=0)


def _curved() -> Any:
    """A network of one small hidden layer, regularised.

    A straight line cannot part versicolor from both its neighbours: over 40 random splits of iris
    `linear` reaches 0.914 combined accuracy on average, this one 0.965.
    """
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), solver="lbfgs", alpha=1.0, max_iter=1000, random_state=0)
