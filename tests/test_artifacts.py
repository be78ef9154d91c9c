"""Each sound artifact is sound, and each defective one is defective in the way it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests import artifacts
from tests.artifacts import (
    iris_rows,
    is_setosa,
    reference_positive_probabilities,
    session_of,
    with_trillium_metadata,
)

Builder = Callable[[], bytes]

SOUND: dict[str, tuple[Builder, int | str, type]] = {
    "opset9_svm_zipmap": (artifacts.opset9_svm_zipmap, 1, np.float32),
    "string_zipmap": (artifacts.string_zipmap, "setosa", np.float32),
    "two_column_tensor": (artifacts.two_column_tensor, 1, np.float32),
    "one_column_tensor": (artifacts.one_column_tensor, 0, np.float32),
    "double_input": (artifacts.double_input, 1, np.float64),
    "half_input": (artifacts.half_input, 1, np.float16),
    "odd_names": (artifacts.odd_names, 1, np.float32),
    "opset 9": (lambda: artifacts.renamed_opset(9), 1, np.float32),
    "opset 11": (lambda: artifacts.renamed_opset(11), 1, np.float32),
    "opset 13": (lambda: artifacts.renamed_opset(13), 1, np.float32),
    "opset 17": (lambda: artifacts.renamed_opset(17), 1, np.float32),
    "slow": (lambda: artifacts.slow(1), 1, np.float32),
    "large": (lambda: artifacts.large(1), 1, np.float32),
}


def answers(model: bytes, rows: Any = None) -> list[Any]:
    """Every output of a model with one input, for `rows` or else all of iris."""
    session = session_of(model)
    (entry,) = session.get_inputs()
    answer: list[Any] = session.run(None, {entry.name: iris_rows() if rows is None else rows})
    return answer


def opsets(model: bytes) -> dict[str, int]:
    return {entry.domain: entry.version for entry in onnx.load_from_string(model).opset_import}


@pytest.mark.parametrize("name", SOUND)
def test_sound_artifact_is_valid_and_tells_setosa_from_the_rest(name: str) -> None:
    build, column, dtype = SOUND[name]
    model = build()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    positive = reference_positive_probabilities(model, iris_rows(), column)
    assert positive.shape == (150,)
    assert positive.dtype == dtype
    assert positive.min() >= 0
    assert positive.max() <= 1
    np.testing.assert_array_equal(positive > 0.5, is_setosa())


@pytest.mark.parametrize("name", SOUND)
def test_sound_artifact_takes_any_number_of_rows(name: str) -> None:
    build, column, _ = SOUND[name]
    rows = iris_rows()
    for count in (1, 2, 7):
        assert len(reference_positive_probabilities(build(), rows[:count], column)) == count


@pytest.mark.parametrize("build", [artifacts.opset9_svm_zipmap, artifacts.string_zipmap])
def test_zipmap_answers_a_sequence_of_maps(build: Builder) -> None:
    labels, maps = answers(build())
    positive_key = "setosa" if build is artifacts.string_zipmap else 1
    negative_key = "other" if build is artifacts.string_zipmap else 0
    assert len(labels) == len(maps) == 150
    assert set(maps[0]) == {positive_key, negative_key}
    assert maps[0][positive_key] + maps[0][negative_key] == pytest.approx(1, abs=1e-6)


def test_string_zipmap_names_the_positive_class_second_whatever_the_alphabet_says() -> None:
    model = artifacts.string_zipmap(("yes", "no"))
    positive = reference_positive_probabilities(model, iris_rows(), "no")
    np.testing.assert_array_equal(positive > 0.5, is_setosa())


def test_old_operator_sets_are_declared() -> None:
    assert opsets(artifacts.opset9_svm_zipmap())[""] <= 9
    for version in (9, 11, 13, 17):
        assert opsets(artifacts.renamed_opset(version)) == {"": version}


def test_tensor_artifacts_have_the_names_types_and_widths_they_claim() -> None:
    found = {}
    for name in ("two_column_tensor", "one_column_tensor", "double_input", "half_input"):
        session = session_of(SOUND[name][0]())
        output = session.get_outputs()[-1]
        found[name] = (session.get_inputs()[0].type, output.type, output.shape[1])
    assert found == {
        "two_column_tensor": ("tensor(float)", "tensor(float)", 2),
        "one_column_tensor": ("tensor(float)", "tensor(float)", 1),
        "double_input": ("tensor(double)", "tensor(double)", 2),
        "half_input": ("tensor(float16)", "tensor(float16)", 2),
    }
    odd = session_of(artifacts.odd_names())
    assert odd.get_inputs()[0].name == "Sepal stuff:0"
    assert odd.get_outputs()[0].name == "p/out"


def test_slow_takes_longer_the_more_it_is_asked_to_but_stays_small_and_exact() -> None:
    model = artifacts.slow(50)
    assert len(model) < 10_000
    session, row = session_of(model), {"input": iris_rows()[:1]}
    started = time.process_time()
    session.run(None, row)
    # Processor time, so a busy machine changes little; generous, as cores differ.
    assert 0.005 < time.process_time() - started < 1
    np.testing.assert_array_equal(
        answers(artifacts.slow(1))[0], answers(artifacts.renamed_opset(13))[0]
    )


def test_large_is_as_large_as_asked_and_its_table_matters() -> None:
    model = artifacts.large(3)
    assert 3 * 2**20 < len(model) < 3 * 2**20 + 2000
    without = reference_positive_probabilities(artifacts.renamed_opset(13), iris_rows(), 1)
    assert (reference_positive_probabilities(model, iris_rows(), 1) != without).any()


@pytest.mark.parametrize("name", ["two_column_tensor", "opset9_svm_zipmap", "slow", "large"])
def test_builder_answers_the_same_bytes_again(name: str) -> None:
    build = SOUND[name][0]
    assert getattr(build, "__wrapped__", build)() == build()


def test_metadata_is_added_and_replaced() -> None:
    once = with_trillium_metadata(artifacts.two_column_tensor(), ensemble="iris", format="1")
    twice = with_trillium_metadata(once, ensemble="flowers")
    found = session_of(twice).get_modelmeta().custom_metadata_map
    assert found == {"trillium.ensemble": "flowers", "trillium.format": "1"}
    np.testing.assert_array_equal(
        reference_positive_probabilities(twice, iris_rows(), 1),
        reference_positive_probabilities(artifacts.two_column_tensor(), iris_rows(), 1),
    )


def test_reference_reads_the_output_that_the_metadata_names() -> None:
    model = with_trillium_metadata(artifacts.two_probability_outputs(), output_name="calibrated")
    expected = answers(model)[1][:, 1]
    np.testing.assert_array_equal(reference_positive_probabilities(model, iris_rows(), 1), expected)


def test_three_classes_answers_three_columns() -> None:
    (probabilities,) = answers(artifacts.three_classes())
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_regressor_leaves_the_range_of_probabilities() -> None:
    (values,) = answers(artifacts.regressor())
    assert values.shape == (150, 1)
    assert values.min() > 1


def test_decision_scores_are_no_probabilities() -> None:
    (scores,) = answers(artifacts.decision_scores())
    assert scores.shape == (150, 2)
    assert (scores.min(axis=1) < 0).all()
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])


def test_labels_only_has_no_float_output() -> None:
    (labels,) = answers(artifacts.labels_only())
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, is_setosa())


def test_two_probability_outputs_disagree() -> None:
    first, second = answers(artifacts.two_probability_outputs())
    assert first.shape == second.shape == (150, 2)
    for probabilities in (first, second):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (first != second).all()


def test_fixed_batch_takes_one_row_and_refuses_two() -> None:
    rows = iris_rows()
    assert answers(artifacts.fixed_batch(), rows[:1])[0].shape == (1, 2)
    with pytest.raises(Exception, match="invalid dimensions"):
        answers(artifacts.fixed_batch(), rows[:2])


def test_two_inputs_needs_both() -> None:
    session = session_of(artifacts.two_inputs())
    assert [entry.name for entry in session.get_inputs()] == ["sepal", "petal"]
    rows = iris_rows()
    (probabilities,) = session.run(None, {"sepal": rows[:, :2], "petal": rows[:, 2:]})
    assert probabilities.shape == (150, 2)


def test_string_input_takes_text() -> None:
    assert session_of(artifacts.string_input()).get_inputs()[0].type == "tensor(string)"
    text = iris_rows().astype(str).astype(object)
    assert answers(artifacts.string_input(), text)[0].shape == (150, 2)


def test_nan_output_is_nan_for_every_row_even_zeros() -> None:
    assert np.isnan(answers(artifacts.nan_output())[0]).all()
    assert np.isnan(answers(artifacts.nan_output(), np.zeros((1, 4), np.float32))[0]).all()


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (artifacts.not_onnx, "(?i)protobuf"),
        (artifacts.truncated, "(?i)protobuf"),
        (artifacts.external_data, "(?i)external data"),
    ],
)
def test_broken_file_does_not_load(build: Builder, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        session_of(build())


def test_external_data_points_outside_its_folder() -> None:
    weights = onnx.load_from_string(artifacts.external_data()).graph.initializer[0]
    assert {entry.key: entry.value for entry in weights.external_data} == {"location": "../secret"}
