"""Valid binary classifiers in the shapes that other people's tools produce; see `artifacts`.

Each takes iris rows [n, 4] in cm and scores "setosa" against the rest, and each builder answers
the same bytes whenever it is called.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from tests.onnx_graphs import (
    FEATURE_COUNT,
    assemble,
    constants,
    logit,
    rows_in,
    scores_out,
    serialise,
    two_columns,
)

MEBIBYTE = 2**20
# `slow`: multiplications of this side stay below the size from which onnxruntime uses threads.
SIDE = 32
PRODUCTS_PER_TURN = 32
TURNS_PER_MS = 33.0  # measured on one thread of a 2020s server core


def iris_rows() -> npt.NDArray[np.float32]:
    """All 150 rows of iris, float32 [150, 4]; the first 50 are setosa."""
    rows: npt.NDArray[np.float32] = load_iris().data.astype(np.float32)
    return rows


def is_setosa() -> npt.NDArray[np.bool_]:
    """Which of `iris_rows` are setosa, bool [150]."""
    answer: npt.NDArray[np.bool_] = load_iris().target == 0
    return answer


def _converted(
    estimator: Any, opset: int, zipmap: bool, input_type: Any = FloatTensorType
) -> bytes:
    model = convert_sklearn(
        estimator,
        name="setosa",
        initial_types=[("input", FloatTensorType([None, FEATURE_COUNT]))],
        target_opset={"": opset, "ai.onnx.ml": 1},
        options={"zipmap": zipmap},
    )
    # The converter may list a domain twice; readers disagree about such a file.
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in sorted(versions.items()))
    return serialise(model)


@cache
def opset9_svm_zipmap() -> bytes:
    """An SVM with Platt scaling, opset 9: "output_label" int64 [n] and "output_probability".

    The latter is a sequence of n maps {0: float, 1: float}; 1 is setosa.
    """
    with warnings.catch_warnings():
        # Such models are in service, though scikit-learn 1.9 deprecates making them.
        warnings.filterwarnings("ignore", message=".*prob(ability|A_|B_)", category=FutureWarning)
        svm = SVC(probability=True, random_state=0).fit(iris_rows(), is_setosa().astype(np.int64))
        return _converted(svm, opset=9, zipmap=True)


@cache
def string_zipmap(class_names: tuple[str, str] = ("other", "setosa")) -> bytes:
    """A logistic regression on string labels: "output_probability" is a sequence of n maps.

    Args:
        class_names: the maps' keys, (not setosa, setosa). The order of the keys in the file is
            alphabetical, whatever the order here.
    """
    labels = np.array(class_names)[is_setosa().astype(np.int64)]
    return _converted(LogisticRegression().fit(iris_rows(), labels), opset=13, zipmap=True)


@cache
def two_column_tensor() -> bytes:
    """A logistic regression: "label" int64 [n], "probabilities" float [n, 2], column 1 setosa."""
    regression = LogisticRegression().fit(iris_rows(), is_setosa().astype(np.int64))
    return _converted(regression, opset=15, zipmap=False)


def one_column_tensor() -> bytes:
    """Only the positive probability: "probability" float [n, 1], as neural networks export it."""
    nodes = [
        helper.make_node("Gemm", ["input", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    output = scores_out("probability", columns=1)
    return assemble(nodes, [rows_in()], [output], constants())


def vector() -> bytes:
    """Only the positive probability: "probability" float [n], as torch's squeeze(-1) leaves it."""
    nodes = [
        helper.make_node("Gemm", ["input", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["probability"]),
    ]
    output = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])
    return assemble(nodes, [rows_in()], [output], {**constants(), "last": np.array([1])})


def output_for_each_class() -> bytes:
    """Two outputs [n, 1], "rest" and "setosa", as skl2onnx's zipmap="columns" makes them."""
    nodes = [
        *logit(),
        helper.make_node("Sigmoid", ["logit"], ["setosa"]),
        helper.make_node("Sub", ["one", "setosa"], ["rest"]),
    ]
    outputs = [scores_out(name, columns=1) for name in ("rest", "setosa")]
    return assemble(nodes, [rows_in()], outputs, constants())


def input_for_each_feature() -> bytes:
    """An input [n, 1] for each feature: two of floats, one of integers, and one of truth values."""
    kinds = {
        "sepal_length": TensorProto.FLOAT,
        "sepal_width": TensorProto.FLOAT,
        "petal": TensorProto.INT64,
        "wide": TensorProto.BOOL,
    }
    casts = [
        helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT) for name in kinds
    ]
    joined = helper.make_node("Concat", [f"{name}_float" for name in kinds], ["joined"], axis=1)
    inputs = [rows_in(name, kind, columns=1) for name, kind in kinds.items()]
    nodes = [*casts, joined, *logit("joined"), *two_columns()]
    return assemble(nodes, inputs, [scores_out()], constants())


def double_input() -> bytes:
    """float64 rows in, float64 "probabilities" [n, 2] out, column 1 setosa."""
    wide = TensorProto.DOUBLE
    return assemble(
        [*logit(), *two_columns()],
        [rows_in(element=wide)],
        [scores_out(element=wide)],
        constants(np.float64),
    )


def half_input() -> bytes:
    """float16 rows in, float16 "probabilities" [n, 2] out, column 1 setosa."""
    narrow = TensorProto.FLOAT16
    return assemble(
        [*logit(), *two_columns()],
        [rows_in(element=narrow)],
        [scores_out(element=narrow)],
        constants(np.float16),
    )


def odd_names() -> bytes:
    """Input "Sepal stuff:0", output "p/out" [n, 2]: legal names that are no identifiers."""
    nodes = [*logit("Sepal stuff:0"), *two_columns(output="p/out")]
    return assemble(nodes, [rows_in("Sepal stuff:0")], [scores_out("p/out")], constants())


def renamed_opset(version: int) -> bytes:
    """The same simple graph, "probabilities" [n, 2], declared for opset 9, 11, 13 or 17."""
    return assemble(
        [*logit(), *two_columns()], [rows_in()], [scores_out()], constants(), opset=version
    )


def slow(milliseconds: float) -> bytes:
    """A classifier, "probabilities" [n, 2], that computes for about `milliseconds` at each run.

    The time hardly depends on the number of rows or of threads, but on the machine: expect it
    within a factor of three. A row's answer is bit for bit that of the same graph without the work.
    """
    turns = max(1, math.ceil(milliseconds * TURNS_PER_MS))
    side = np.array([SIDE, SIDE], np.int64)
    nodes = [
        # Starts from the row count, or onnxruntime would do the work once, when it loads.
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("ReduceMin", ["shape"], ["smallest"], keepdims=0),
        helper.make_node("Cast", ["smallest"], ["smallest_float"], to=TensorProto.FLOAT),
        helper.make_node("Min", ["smallest_float", "one_scalar"], ["start_value"]),
        helper.make_node("Expand", ["start_value", "side"], ["start"]),
        helper.make_node("Expand", ["average", "side"], ["averaging"]),
        helper.make_node("Loop", ["turns", "", "start"], ["end"], body=_slow_turn()),
        helper.make_node("ReduceMax", ["end"], ["certainly_one"], keepdims=0),
        *logit(),
        helper.make_node("Mul", ["logit", "certainly_one"], ["late_logit"]),
        *two_columns("late_logit"),
    ]
    initializers = {
        **constants(),
        "one_scalar": np.array(1, np.float32),
        "average": np.array(1 / SIDE, np.float32),
        "side": side,
        "turns": np.array(turns, np.int64),
    }
    return assemble(nodes, [rows_in()], [scores_out()], initializers)


def _slow_turn() -> Any:
    """Multiply a matrix of ones by one that averages its rows: exactly ones again."""
    nodes: list[NodeProto] = [helper.make_node("Identity", ["go_on"], ["still_on"])]
    names = ["ones", *(f"ones_{number}" for number in range(PRODUCTS_PER_TURN))]
    for before, after in pairwise(names):
        nodes.append(helper.make_node("MatMul", [before, "averaging"], [after]))
    matrix = (TensorProto.FLOAT, [SIDE, SIDE])
    return helper.make_graph(
        nodes,
        "turn",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("ones", *matrix),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[-1], *matrix),
        ],
    )


def large(megabytes: int) -> bytes:
    """A classifier, "probabilities" [n, 2], with a table of `megabytes` MiB (below 2048).

    Each row looks one small correction up in the table, by its first feature, so the table is
    needed yet costs no time.
    """
    size = megabytes * MEBIBYTE // np.dtype(np.float32).itemsize
    nodes = [
        *logit(),
        helper.make_node("Slice", ["input", "zero", "first", "first"], ["feature"]),
        helper.make_node("Abs", ["feature"], ["length"]),
        helper.make_node("Mul", ["length", "thousand"], ["micrometres"]),
        helper.make_node("Cast", ["micrometres"], ["long_index"], to=TensorProto.INT64),
        helper.make_node("Mod", ["long_index", "size"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["correction"]),
        helper.make_node("Add", ["logit", "correction"], ["corrected"]),
        *two_columns("corrected"),
    ]
    initializers = {
        **constants(),
        "zero": np.array([0], np.int64),
        "first": np.array([1], np.int64),
        "thousand": np.array([1000], np.float32),
        "size": np.array([size], np.int64),
        "table": np.random.default_rng(0).random(size, np.float32) / np.float32(100),
    }
    return assemble(nodes, [rows_in()], [scores_out()], initializers)
