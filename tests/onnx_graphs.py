"""Pieces from which the builders of test artifacts assemble small ONNX graphs by hand.

Every graph scores iris setosa with the same fixed weights, so a builder shows only what is
particular to its artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Constants: TypeAlias = Mapping[str, npt.NDArray[Any]]

FEATURE_COUNT = 4
# Logit of "setosa" for (sepal length, sepal width, petal length, petal width) in cm: about +5 for
# a setosa, -2 or less for the others.
WEIGHTS = ((0.5,), (1.0,), (-2.0,), (-1.0,))
BIAS = (2.0,)


def rows_in(
    name: str = "input", element: int = TensorProto.FLOAT, columns: int = FEATURE_COUNT
) -> ValueInfoProto:
    """A graph input [any number of rows, `columns`]."""
    return helper.make_tensor_value_info(name, element, [None, columns])


def scores_out(
    name: str = "probabilities", element: int = TensorProto.FLOAT, columns: int = 2
) -> ValueInfoProto:
    """A graph output [any number of rows, `columns`]."""
    return helper.make_tensor_value_info(name, element, [None, columns])


def constants(dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[Any]]:
    """The initializers that `logit` and `two_columns` use."""
    return {
        "weights": np.array(WEIGHTS, dtype),
        "bias": np.array(BIAS, dtype),
        "one": np.ones(1, dtype),
    }


def logit(rows: str = "input") -> list[NodeProto]:
    """`rows` [n, 4] to "logit" [n, 1]."""
    return [
        helper.make_node("MatMul", [rows, "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logit"]),
    ]


def two_columns(score: str = "logit", output: str = "probabilities") -> list[NodeProto]:
    """`score` [n, 1] to `output` [n, 2]: (not setosa, setosa)."""
    return [
        helper.make_node("Sigmoid", [score], ["setosa"]),
        helper.make_node("Sub", ["one", "setosa"], ["other"]),
        helper.make_node("Concat", ["other", "setosa"], [output], axis=1),
    ]


def assemble(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Constants,
    opset: int = 13,
) -> bytes:
    """Serialise a graph; the IR version is the oldest that `opset` allows."""
    tensors = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "setosa", inputs, outputs, tensors)
    return serialise(graph_model(graph, opset))


def graph_model(graph: Any, opset: int) -> ModelProto:
    """Wrap `graph` in a model that uses the default operator domain only."""
    opsets = [helper.make_opsetid("", opset)]
    oldest_ir = helper.find_min_ir_version_for(opsets)
    return helper.make_model(graph, opset_imports=opsets, ir_version=oldest_ir)


def serialise(model: ModelProto) -> bytes:
    """The same bytes for the same model, in every process."""
    return bytes(model.SerializeToString(deterministic=True))
