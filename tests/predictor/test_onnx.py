"""What is served is bit for bit what ONNX Runtime answers; what cannot be served is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from predictor.graph import check_self_contained, without_zipmap
from predictor.onnx import Classifier, RunHandle
from tests import artifacts
from tests.artifacts import (
    iris_rows,
    reference_positive_probabilities,
    session_of,
    with_trillium_metadata,
)
from tests.onnx_graphs import assemble, constants, logit, rows_in, scores_out, two_columns
from tests.predictor.serving import ONLY_COLUMN, SETOSA
from trillium.errors import Cancelled, ModelFailed, ModelRejected
from trillium.model.declared import DeclaredFacts

Builder = Callable[[], bytes]

SOUND: dict[str, tuple[Builder, DeclaredFacts, int | str]] = {
    "opset-9 SVM, ZipMap of ints": (artifacts.opset9_svm_zipmap, SETOSA, 1),
    "its other column": (artifacts.opset9_svm_zipmap, DeclaredFacts("", "other", (), 0), 0),
    "ZipMap of ints, class named by its key": (
        artifacts.opset9_svm_zipmap,
        DeclaredFacts(class_label="1"),
        1,
    ),
    "ZipMap of texts, class named by its key": (artifacts.string_zipmap, ONLY_COLUMN, "setosa"),
    "ZipMap whose keys are out of order": (
        lambda: artifacts.string_zipmap(("versicolor", "setosa")),
        ONLY_COLUMN,
        "setosa",
    ),
    "[n, 2]": (artifacts.two_column_tensor, SETOSA, 1),
    "[n, 1]": (artifacts.one_column_tensor, ONLY_COLUMN, 0),
    "[n]": (artifacts.vector, ONLY_COLUMN, 0),
    "double": (artifacts.double_input, SETOSA, 1),
    "half": (artifacts.half_input, SETOSA, 1),
    "odd names": (artifacts.odd_names, SETOSA, 1),
    "opset 9": (lambda: artifacts.renamed_opset(9), SETOSA, 1),
    "opset 11": (lambda: artifacts.renamed_opset(11), SETOSA, 1),
    "opset 13": (lambda: artifacts.renamed_opset(13), SETOSA, 1),
    "opset 17": (lambda: artifacts.renamed_opset(17), SETOSA, 1),
    "slow": (lambda: artifacts.slow(1), SETOSA, 1),
    "large": (lambda: artifacts.large(1), SETOSA, 1),
}


def test_output_of_the_class_alone_is_served() -> None:
    said = DeclaredFacts(class_label="setosa", output_name="setosa")
    answer = Classifier(artifacts.output_for_each_class(), said).score(iris_rows())
    expected = reference_positive_probabilities(artifacts.one_column_tensor(), iris_rows(), 0)
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    with pytest.raises(ModelRejected, match="rest, setosa could all be the probabilities"):
        Classifier(artifacts.output_for_each_class(), ONLY_COLUMN)


@pytest.mark.parametrize("build", [artifacts.fixed_batch, artifacts.two_inputs])
@pytest.mark.parametrize("count", [1, 2, 150])
def test_rows_fill_several_inputs_and_batches_of_a_fixed_size(build: Builder, count: int) -> None:
    answer = Classifier(build(), SETOSA).score(iris_rows()[:count])
    expected = Classifier(artifacts.one_column_tensor(), ONLY_COLUMN).score(iris_rows()[:count])
    np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_inputs_of_one_column_name_the_features() -> None:
    classifier = Classifier(artifacts.input_for_each_feature(), SETOSA)
    assert classifier.facts.feature_names == ("sepal_length", "sepal_width", "petal", "wide")
    assert classifier.input_dtype == "FP32"
    rows = np.array([[5.0, 3.5, 1.0, 1.0], [5.0, 3.5, 1.5, 1.0], [5.0, 3.5, 1.0, 0.5]], np.float32)
    found = classifier.raw_scores(rows)
    assert np.isnan(found).tolist() == [False, True, True]
    expected = Classifier(artifacts.one_column_tensor(), ONLY_COLUMN).score(rows[:1])
    np.testing.assert_allclose(found[:1], expected, atol=1e-6)
    large = np.array([[5.0, 3.5, 2.0**25, 1.0], [5.0, 3.5, 2.0**24, 0.0]], np.float32)
    assert np.isnan(classifier.raw_scores(large)).tolist() == [True, False]


def test_missing_values_are_taken_where_they_make_probabilities() -> None:
    said = DeclaredFacts(class_label="setosa", takes_missing=True)
    with pytest.raises(ModelRejected, match=r"declared to take missing values .* makes output"):
        Classifier(artifacts.one_column_tensor(), said)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("count", [1, 2, 150])
def test_sound_artifact_is_served_bit_for_bit(name: str, count: int) -> None:
    build, said, column = SOUND[name]
    rows = iris_rows()[40 : 40 + count] if count < 150 else iris_rows()
    answer = Classifier(build(), said).score(rows)
    expected = reference_positive_probabilities(build(), rows, column)
    assert answer.dtype == np.float32
    assert answer.tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("build", "dtype"),
    [
        (artifacts.half_input, "FP16"),
        (artifacts.two_column_tensor, "FP32"),
        (artifacts.double_input, "FP64"),
    ],
)
def test_input_type_and_width_are_told(build: Builder, dtype: str) -> None:
    classifier = Classifier(build(), SETOSA)
    assert (classifier.input_dtype, classifier.feature_count) == (dtype, 4)


def test_several_threads_answer_the_same_bits() -> None:
    model = artifacts.opset9_svm_zipmap()
    alone, several = (Classifier(model, SETOSA, threads=count) for count in (1, 2))
    assert alone.score(iris_rows()).tobytes() == several.score(iris_rows()).tobytes()


DEFECTIVE: dict[str, tuple[Builder, DeclaredFacts, str]] = {
    "three classes": (artifacts.three_classes, SETOSA, r"no output can hold .* \[None, 3\]"),
    "regression": (artifacts.regressor, ONLY_COLUMN, r"'variable' ranges from .* in \[0, 1\]"),
    "distances": (artifacts.decision_scores, SETOSA, r"'scores' ranges from -"),
    "labels only": (artifacts.labels_only, SETOSA, r"no output can hold .* label tensor\(int64\)"),
    "two candidates": (
        artifacts.two_probability_outputs,
        SETOSA,
        "probabilities, calibrated could all be .* --output-name",
    ),
    "text input": (artifacts.string_input, SETOSA, r"input 'input' is a tensor\(string\)"),
    "NaN": (artifacts.nan_output, SETOSA, "'probabilities' is NaN or infinite for every row"),
    "noise": (artifacts.not_onnx, SETOSA, "(?i)protobuf"),
    "half an upload": (artifacts.truncated, SETOSA, "(?i)protobuf|part of one"),
    "nothing": (lambda: b"", SETOSA, "ONNX Runtime cannot open it"),
    "weights elsewhere": (artifacts.external_data, SETOSA, "'weights' lies in another file"),
    "class not said": (
        artifacts.two_column_tensor,
        DeclaredFacts(positive_column=1),
        "which class .* --class-label",
    ),
    "column not said": (
        artifacts.two_column_tensor,
        ONLY_COLUMN,
        "which of the two columns .* --positive-column",
    ),
    "key of the class not found": (
        artifacts.opset9_svm_zipmap,
        ONLY_COLUMN,
        "which of the two columns .* --positive-column",
    ),
    "second of one column": (
        artifacts.one_column_tensor,
        SETOSA,
        "positive column 1 does not exist",
    ),
    "output of no such name": (
        artifacts.two_column_tensor,
        DeclaredFacts(class_label="setosa", positive_column=1, output_name="nothing"),
        "no output 'nothing'; there are label, probabilities",
    ),
    "output that is a label": (
        artifacts.two_column_tensor,
        DeclaredFacts(class_label="setosa", positive_column=1, output_name="label"),
        r"output 'label' is a tensor\(int64\)",
    ),
    "sample of another width": (
        artifacts.two_column_tensor,
        DeclaredFacts(class_label="setosa", positive_column=1, sample=(1.0, 2.0)),
        "sample has 2 entries; the model takes 4",
    ),
    "names of another number": (
        artifacts.two_column_tensor,
        DeclaredFacts(class_label="setosa", positive_column=1, feature_names=("a",)),
        "feature_names has 1 entries; the model takes 4",
    ),
    "class of another ensemble": (
        artifacts.two_column_tensor,
        DeclaredFacts(class_label="setosa", positive_column=1, class_labels=("a", "b")),
        "class 'setosa' is none of its ensemble's: a, b",
    ),
}


@pytest.mark.parametrize("name", DEFECTIVE)
def test_defective_artifact_is_refused_with_the_reason(name: str) -> None:
    build, said, reason = DEFECTIVE[name]
    with pytest.raises(ModelRejected, match=reason) as caught:
        Classifier(build(), said)
    assert "\n" not in caught.value.message


def test_output_is_chosen_by_name_among_several() -> None:
    model = artifacts.two_probability_outputs()
    answers = {}
    for name in ("probabilities", "calibrated"):
        said = DeclaredFacts(class_label="setosa", positive_column=1, output_name=name)
        named = with_trillium_metadata(model, output_name=name)
        answers[name] = Classifier(model, said).score(iris_rows())
        expected = reference_positive_probabilities(named, iris_rows(), 1)
        assert answers[name].tobytes() == expected.tobytes()
    assert (answers["probabilities"] != answers["calibrated"]).all()


def test_zipmap_is_gone_from_what_is_run() -> None:
    model, keys = without_zipmap(artifacts.opset9_svm_zipmap(), "")
    graph = onnx.load_from_string(model).graph
    assert "ZipMap" not in {node.op_type for node in graph.node}
    assert [output.name for output in graph.output] == ["output_probability"]
    assert keys == [0, 1]
    (output,) = Classifier(artifacts.opset9_svm_zipmap(), SETOSA)._session.get_outputs()
    assert output.type == "tensor(float)"


def test_keys_of_zipmap_keep_the_order_of_the_columns() -> None:
    assert without_zipmap(artifacts.string_zipmap(("yes", "no")), "")[1] == ["no", "yes"]


def zipmap_model(keys: Sequence[int | str | bytes], **more_outputs: Any) -> bytes:
    """`string_zipmap` with other keys and, for each of `more_outputs`, a further output."""
    model = onnx.load_from_string(artifacts.string_zipmap())
    (zipmap,) = (node for node in model.graph.node if node.op_type == "ZipMap")
    del zipmap.attribute[:]
    name = "classlabels_int64s" if isinstance(keys[0], int) else "classlabels_strings"
    zipmap.attribute.append(helper.make_attribute(name, keys))
    for output, source in more_outputs.items():
        model.graph.node.append(helper.make_node("Identity", [source(zipmap)], [output]))
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 2])
        model.graph.output.append(value)
    return bytes(model.SerializeToString())


def test_zipmap_of_three_classes_is_refused() -> None:
    with pytest.raises(ModelRejected, match="binary"):
        Classifier(zipmap_model(["a", "b", "c"]), SETOSA)


def test_zipmap_whose_keys_are_no_text_is_served_by_column() -> None:
    rows = iris_rows()
    answer = Classifier(zipmap_model([b"\xff\xfe", b"\xfe"]), SETOSA).score(rows)
    expected = reference_positive_probabilities(artifacts.string_zipmap(), rows, "setosa")
    assert answer.tobytes() == expected.tobytes()


def test_tensor_beside_a_zipmap_is_served_when_it_is_named() -> None:
    model = zipmap_model(["other", "setosa"], raw=lambda zipmap: zipmap.input[0])
    said = DeclaredFacts(class_label="setosa", positive_column=1, output_name="raw")
    rows = iris_rows()
    expected = reference_positive_probabilities(artifacts.string_zipmap(), rows, "setosa")
    assert Classifier(model, said).score(rows).tobytes() == expected.tobytes()


def elsewhere(name: str = "hidden") -> Any:
    """A tensor whose values "are" in another file."""
    tensor = numpy_helper.from_array(np.ones(1, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def hidden_in_attribute(model: Any) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=elsewhere()))


def hidden_in_sparse_attribute(model: Any) -> None:
    sparse = onnx.SparseTensorProto(values=elsewhere(), dims=[4])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    node = helper.make_node("Constant", [], ["unused"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse)
    model.graph.node.append(node)


def hidden_in_branch(model: Any) -> None:
    branch = helper.make_graph([], "branch", [], [])
    branch.sparse_initializer.add().values.CopyFrom(elsewhere())
    outer = helper.make_graph([], "outer", [], [])
    outer.node.append(helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch))
    model.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=outer)
    )


def hidden_in_function(model: Any) -> None:
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["unused"], value=elsewhere()))


def hidden_in_default_of_function(model: Any) -> None:
    function = model.functions.add(name="f", domain="d")
    function.attribute_proto.append(helper.make_attribute("value", elsewhere()))


def hidden_in_training_graph(model: Any) -> None:
    model.training_info.add().algorithm.initializer.append(elsewhere())


@pytest.mark.parametrize(
    "hide",
    [
        hidden_in_attribute,
        hidden_in_sparse_attribute,
        hidden_in_branch,
        hidden_in_function,
        hidden_in_default_of_function,
        hidden_in_training_graph,
    ],
)
def test_reference_to_a_file_is_refused_wherever_it_hides(
    hide: Callable[[Any], None],
) -> None:
    model = onnx.load_from_string(artifacts.renamed_opset(13))
    hide(model)
    with pytest.raises(ModelRejected, match="'hidden' lies in another file"):
        Classifier(model.SerializeToString(), SETOSA)


def test_word_location_alone_is_no_reference() -> None:
    artifact = with_trillium_metadata(artifacts.two_column_tensor(), note="location: Gaspé")
    assert b"location" in artifact
    check_self_contained(artifact)
    assert Classifier(artifact, SETOSA).metadata["note"] == "location: Gaspé"


def test_nothing_outside_is_read_by_a_refused_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(constants()["weights"].tobytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with pytest.raises(ModelRejected, match="lies in another file"):
        Classifier(artifacts.external_data(), SETOSA)


def test_person_wins_over_metadata_and_metadata_fills_the_rest() -> None:
    model = with_trillium_metadata(
        artifacts.two_column_tensor(),
        class_label="versicolor",
        positive_column="0",
        ensemble="iris",
        sample="[1, 2, 3, 4]",
    )
    by_itself = Classifier(model, DeclaredFacts())
    assert (by_itself.facts.class_label, by_itself.facts.positive_column) == ("versicolor", 0)
    told = Classifier(model, DeclaredFacts(class_label="setosa", positive_column=1))
    assert told.facts.class_label == "setosa"
    assert told.facts.ensemble == "iris"
    assert told.facts.sample == (1.0, 2.0, 3.0, 4.0)
    rows = iris_rows()
    for classifier, column in ((by_itself, 0), (told, 1)):
        expected = reference_positive_probabilities(model, rows, column)
        assert classifier.score(rows).tobytes() == expected.tobytes()


def test_column_that_is_said_wins_over_the_key_of_the_class() -> None:
    said = DeclaredFacts(class_label="setosa", positive_column=0)
    answer = Classifier(artifacts.string_zipmap(), said).score(iris_rows())
    expected = reference_positive_probabilities(artifacts.string_zipmap(), iris_rows(), "other")
    assert answer.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("key", "text"),
    [("class_labels", "setosa"), ("positive_column", "7"), ("sample", "[" * 9999)],
)
def test_wrong_metadata_is_refused_by_its_key(key: str, text: str) -> None:
    model = with_trillium_metadata(artifacts.two_column_tensor(), **{key: text})
    with pytest.raises(ModelRejected, match=f"metadata trillium.{key} is wrong"):
        Classifier(model, SETOSA)


def with_broken_text(place: str) -> bytes:
    """An artifact that holds bytes which are no UTF-8 where there should be text."""
    model = onnx.load_from_string(artifacts.renamed_opset(13))
    mark = "MARKMARK"
    if place == "metadata":
        model.metadata_props.add(key="trillium.class_label", value=mark)
    elif place == "input":
        return artifacts.odd_names().replace(b"Sepal stuff:0", b"Sepal stuff:\xff")
    else:
        return artifacts.odd_names().replace(b"p/out", b"p/ou\xff")
    return bytes(model.SerializeToString()).replace(mark.encode(), b"\xff" * len(mark))


@pytest.mark.parametrize("place", ["metadata", "input", "output"])
def test_text_that_is_no_text_is_refused(place: str) -> None:
    with pytest.raises(ModelRejected):
        Classifier(with_broken_text(place), SETOSA)


def test_width_that_the_graph_leaves_open_comes_from_the_names() -> None:
    initializers = {**constants(), "axis": np.array([1], np.int64)}
    nodes = [helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1)]
    nodes += two_columns("mean")
    rows = helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, None])
    model = assemble(nodes, [rows], [scores_out()], initializers)
    with pytest.raises(ModelRejected, match=r"number of features of input .* feature_names"):
        Classifier(model, SETOSA)
    named = DeclaredFacts("", "setosa", (), 1, "", tuple("abcdefg"))
    assert Classifier(model, named).feature_count == 7


def of_nodes(*nodes: Any, columns: int = 2, **more: Any) -> bytes:
    """The usual logit, then `nodes`, to "probabilities"."""
    return assemble(
        [*logit(), *nodes], [rows_in()], [scores_out(columns=columns)], {**constants(), **more}
    )


def fits_64_rows_only() -> bytes:
    return of_nodes(
        *two_columns(output="pair"),
        helper.make_node("Reshape", ["pair", "shape"], ["probabilities"]),
        shape=np.array([64, 2], np.int64),
    )


def drops_the_dimension_of_a_single_row() -> bytes:
    model = onnx.load_from_string(
        of_nodes(
            *two_columns(output="pair"), helper.make_node("Squeeze", ["pair"], ["probabilities"])
        )
    )
    return bytes(model.SerializeToString())


def answers_one_row_for_all() -> bytes:
    return of_nodes(
        *two_columns(output="pair"),
        helper.make_node("ReduceMean", ["pair"], ["probabilities"], axes=[0], keepdims=1),
    )


def answers_columns_that_do_not_add_up() -> bytes:
    return of_nodes(
        helper.make_node("Sigmoid", ["logit"], ["setosa"]),
        helper.make_node("Concat", ["setosa", "setosa"], ["probabilities"], axis=1),
    )


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (fits_64_rows_only, "could not be run"),
        (drops_the_dimension_of_a_single_row, "has shape .* for 1 row"),
        (answers_one_row_for_all, r"has shape \[1, 2\] for 64 rows"),
        (answers_columns_that_do_not_add_up, "do not add up to 1"),
    ],
)
def test_model_that_fits_some_numbers_of_rows_only_is_refused(build: Builder, reason: str) -> None:
    with pytest.raises(ModelRejected, match=reason):
        Classifier(build(), SETOSA)


@pytest.mark.parametrize("wide", [2**24, 2**40])
def test_absurdly_wide_model_is_refused_before_it_takes_the_memory(wide: int) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        *two_columns("mean"),
    ]
    model = assemble(nodes, [rows_in(columns=wide)], [scores_out()], constants())
    with pytest.raises(ModelRejected, match=f"{wide} features"):
        Classifier(model, SETOSA)


def nan_above(threshold: float) -> bytes:
    """NaN for rows whose first feature is larger than `threshold`."""
    return of_nodes(
        helper.make_node("Slice", ["input", "zero", "first", "first"], ["feature"]),
        helper.make_node("Sub", ["threshold", "feature"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["nan_or_zero"]),
        helper.make_node("Add", ["logit", "nan_or_zero"], ["odd"]),
        *two_columns("odd"),
        zero=np.array([0], np.int64),
        first=np.array([1], np.int64),
        threshold=np.array([threshold], np.float32),
        nothing=np.array([0], np.float32),
    )


def test_nan_for_some_rows_is_an_error_of_those_and_names_the_row() -> None:
    classifier = Classifier(nan_above(1000.0), SETOSA)
    rows = iris_rows()[:3].copy()
    assert classifier.score(rows).shape == (3,)
    rows[2, 0] = 1001
    with pytest.raises(ModelFailed, match="returned nan for row 2"):
        classifier.score(rows)
    raw = classifier.raw_scores(rows)
    assert np.isnan(raw[2])
    assert np.isfinite(raw[:2]).all()


def test_value_beyond_half_precision_is_scored_as_onnx_runtime_scores_it() -> None:
    rows = iris_rows()[:2].copy()
    rows[1, 2] = 1e6
    answer = Classifier(artifacts.half_input(), SETOSA).raw_scores(rows)
    with np.errstate(over="ignore"):
        expected = reference_positive_probabilities(artifacts.half_input(), rows, 1)
    assert answer.tobytes() == expected.astype(np.float32).tobytes()


def test_double_output_beyond_single_precision_is_refused() -> None:
    nodes = [
        *logit(),
        helper.make_node("Mul", ["logit", "huge"], ["probability"]),
    ]
    wide = TensorProto.DOUBLE
    initializers = {**constants(np.float64), "huge": np.array([1e300])}
    output = scores_out("probability", wide, columns=1)
    model = assemble(nodes, [rows_in(element=wide)], [output], initializers)
    with pytest.raises(ModelRejected, match="ranges from"):
        Classifier(model, ONLY_COLUMN)


def test_stopped_run_is_cancelled_and_the_next_one_is_not() -> None:
    classifier = Classifier(artifacts.slow(1), SETOSA)
    handle = RunHandle()
    handle.stop()
    with pytest.raises(Cancelled):
        classifier.score(iris_rows(), handle)
    expected = reference_positive_probabilities(artifacts.slow(1), iris_rows(), 1)
    assert classifier.score(iris_rows(), RunHandle()).tobytes() == expected.tobytes()


def test_wrong_width_is_a_failure_of_the_run_and_not_of_the_process() -> None:
    with pytest.raises(ModelFailed, match="could not be run"):
        Classifier(artifacts.two_column_tensor(), SETOSA).score(np.ones((1, 5), np.float32))


def test_cost_of_a_slow_model_is_far_above_that_of_a_quick_one() -> None:
    slow = Classifier(artifacts.slow(20), SETOSA).cost
    quick = Classifier(artifacts.renamed_opset(13), SETOSA).cost
    assert slow.of(1) > 0.004 > quick.of(1)
    assert quick.of(10**6) > quick.of(1)


def test_reference_session_answers_maps_where_ours_answers_a_tensor() -> None:
    outputs = session_of(artifacts.opset9_svm_zipmap()).get_outputs()
    assert any(output.type.startswith("seq(map") for output in outputs)


@pytest.mark.parametrize(
    "build",
    [artifacts.renamed_opset, artifacts.two_column_tensor, artifacts.opset9_svm_zipmap],
)
def test_damaged_artifact_is_refused_or_served_and_nothing_else(
    build: Callable[..., bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    whole = build(13) if build is artifacts.renamed_opset else build()
    chance = random.Random(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3])):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        try:
            Classifier(bytes(damaged), SETOSA)
        except ModelRejected:
            refused += 1
    assert refused > 0
    assert capfd.readouterr() == ("", "")
