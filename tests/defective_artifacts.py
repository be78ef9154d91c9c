"""Files that are no binary classifier a predictor could serve; see `artifacts`.

Unless it says otherwise, a builder's graph is legal ONNX, takes float rows [n, 4] named "input",
and runs.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.onnx_graphs import (
    FEATURE_COUNT,
    assemble,
    constants,
    graph_model,
    logit,
    rows_in,
    scores_out,
    serialise,
    two_columns,
)
from tests.sound_artifacts import two_column_tensor


def three_classes() -> bytes:
    """A whole multi-class model: softmax "probabilities" [n, 3]."""
    nodes = [
        helper.make_node("MatMul", ["input", "class_weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    class_weights = np.array([[0, 0, 0], [1, 0, -1], [-1, 0, 1], [-1, 0, 1]], np.float32)
    output = scores_out(columns=3)
    return assemble(nodes, [rows_in()], [output], {"class_weights": class_weights})


def regressor() -> bytes:
    """A regression, "variable" [n, 1]: outside 0 to 1 for every row of iris."""
    nodes = [helper.make_node("ReduceSum", ["input", "columns"], ["variable"], keepdims=1)]
    initializers = {"columns": np.array([1], np.int64)}
    return assemble(nodes, [rows_in()], [scores_out("variable", columns=1)], initializers)


def decision_scores() -> bytes:
    """Signed distances (-d, d), "scores" [n, 2], as an SVM without probabilities gives."""
    nodes = [
        *logit(),
        helper.make_node("Neg", ["logit"], ["opposite"]),
        helper.make_node("Concat", ["opposite", "logit"], ["scores"], axis=1),
    ]
    return assemble(nodes, [rows_in()], [scores_out("scores")], constants())


def labels_only() -> bytes:
    """A decision without its probability: "label" int64 [n], 0 or 1."""
    nodes = [
        *logit(),
        *two_columns(),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    return assemble(nodes, [rows_in()], [label], constants())


def two_probability_outputs() -> bytes:
    """Two candidates, "probabilities" and "calibrated", both [n, 2] and not equal."""
    nodes = [
        *logit(),
        *two_columns(),
        helper.make_node("Softmax", ["probabilities"], ["calibrated"], axis=1),
    ]
    return assemble(nodes, [rows_in()], [scores_out(), scores_out("calibrated")], constants())


def fixed_batch() -> bytes:
    """Takes exactly one row: "input" [1, 4], "probabilities" [1, 2]."""
    single = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, FEATURE_COUNT])
    pair = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 2])
    return assemble([*logit(), *two_columns()], [single], [pair], constants())


def two_inputs() -> bytes:
    """The features arrive in two inputs, "sepal" [n, 2] and "petal" [n, 2]."""
    nodes = [
        helper.make_node("Concat", ["sepal", "petal"], ["joined"], axis=1),
        *logit("joined"),
        *two_columns(),
    ]
    inputs = [rows_in("sepal", columns=2), rows_in("petal", columns=2)]
    return assemble(nodes, inputs, [scores_out()], constants())


def string_input() -> bytes:
    """Takes text: "input" string [n, 4]."""
    nodes = [
        helper.make_node("Cast", ["input"], ["numbers"], to=TensorProto.FLOAT),
        *logit("numbers"),
        *two_columns(),
    ]
    return assemble(nodes, [rows_in(element=TensorProto.STRING)], [scores_out()], constants())


def nan_output() -> bytes:
    """Emits NaN in all of "probabilities" [n, 2], whatever the row."""
    nodes: list[NodeProto] = [
        *logit(),
        *two_columns(output="sound"),
        # The logarithm of -1 - x² is NaN for every x.
        helper.make_node("Mul", ["logit", "logit"], ["square"]),
        helper.make_node("Add", ["square", "one"], ["at_least_one"]),
        helper.make_node("Neg", ["at_least_one"], ["negative"]),
        helper.make_node("Log", ["negative"], ["nan"]),
        helper.make_node("Add", ["sound", "nan"], ["probabilities"]),
    ]
    return assemble(nodes, [rows_in()], [scores_out()], constants())


def bomb(size_bytes: int) -> bytes:
    """Some hundred bytes that take `size_bytes` of memory to run."""
    nodes: list[NodeProto] = [
        *logit(),
        *two_columns(output="sound"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["sound", "zero"], ["probabilities"]),
    ]
    shape = {"shape": np.array([size_bytes // 4], np.int64)}
    return assemble(nodes, [rows_in()], [scores_out()], {**constants(), **shape})


def not_onnx() -> bytes:
    """4 KiB of noise; does not load."""
    return np.random.default_rng(0).bytes(4096)


def truncated() -> bytes:
    """The first half of `two_column_tensor`, as an upload that broke off; does not load."""
    whole = two_column_tensor()
    return whole[: len(whole) // 2]


def external_data() -> bytes:
    """Its weights are "in" ../secret, outside the artifact's own folder; does not load."""
    weights = numpy_helper.from_array(constants()["weights"], "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret")
    inside = [
        numpy_helper.from_array(value, name)
        for name, value in constants().items()
        if name != "weights"
    ]
    nodes = [*logit(), *two_columns()]
    graph = helper.make_graph(nodes, "setosa", [rows_in()], [scores_out()], [weights, *inside])
    return serialise(graph_model(graph, opset=13))
