"""Whether a model fits an ensemble: each rule alone, and what is not declared fits everything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregator.plans.agreement import EnsembleMetadata, agreed, misfit
from trillium.model.description import ModelDescription

MODEL = ModelDescription(
    digest="d",
    class_label="a",
    feature_count=2,
    ensemble="iris",
    feature_names=("x", "y"),
    sample=(1.0, 2.0),
)
NAMES = "its model has features of other names or in another order"
EXPECTED = EnsembleMetadata("iris", 2, ("x", "y"), (1.0, 2.0))


def test_a_model_that_declares_what_is_expected_fits() -> None:
    assert misfit(MODEL, EXPECTED, "a") == ""


@pytest.mark.parametrize("names", [(), ("x", "y")], ids=["undeclared", "declared"])
@pytest.mark.parametrize("expected", [(), ("x", "y")], ids=["unknown", "known"])
def test_names_differ_only_if_both_are_known(
    names: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    model, others = replace(MODEL, feature_names=names), replace(EXPECTED, feature_names=expected)
    assert misfit(model, others, "a") == ""


@pytest.mark.parametrize("ensemble", ["", "iris"])
@pytest.mark.parametrize("expected", ["", "iris"])
def test_ensembles_differ_only_if_both_are_known(ensemble: str, expected: str) -> None:
    model, others = replace(MODEL, ensemble=ensemble), replace(EXPECTED, ensemble=expected)
    assert misfit(model, others, "a") == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_label": "b"}, "its model recognizes 'b', not 'a'"),
        ({"ensemble": "wine"}, "its model is of ensemble 'wine', not 'iris'"),
        ({"feature_count": 3}, "its model takes 3 features, not 2"),
        (
            {"feature_names": ("y", "x")},
            NAMES,
        ),
        ({"feature_names": ("x",)}, NAMES),
    ],
)
def test_each_difference_is_a_reason(changes: dict[str, object], reason: str) -> None:
    model = replace(MODEL, **changes)  # type: ignore[arg-type]
    assert misfit(model, EXPECTED, "a") == reason


def test_only_models_of_the_agreed_shape_and_ensemble_name_the_features() -> None:
    wide = replace(MODEL, feature_count=3, feature_names=("p", "q", "r"))
    foreign = replace(MODEL, ensemble="wine", feature_names=("p", "q"))
    silent = replace(MODEL, ensemble="", feature_names=(), sample=())
    assert agreed([wide, foreign, silent, MODEL, MODEL], "") == EXPECTED


def test_a_sample_comes_from_a_model_whose_names_are_the_agreed_ones() -> None:
    swapped = replace(MODEL, feature_names=("y", "x"), sample=(2.0, 1.0))
    unnamed = replace(MODEL, feature_names=(), sample=(7.0, 8.0))
    assert agreed([swapped, MODEL, MODEL], "").sample == (1.0, 2.0)
    assert agreed([swapped, unnamed, MODEL, MODEL], "").sample == (7.0, 8.0)


def test_a_fixed_ensemble_is_stronger_than_the_majority() -> None:
    wine = replace(MODEL, ensemble="wine", feature_names=("p", "q"))
    assert agreed([MODEL, MODEL, wine], "wine").ensemble == "wine"
    assert agreed([MODEL, MODEL, wine], "wine").feature_names == ("p", "q")


def test_nothing_is_agreed_without_models() -> None:
    assert agreed([], "") == EnsembleMetadata("", 0, (), ())
