"""Small ONNX files as somebody else might make them, for tests of whatever loads models.

Builders of sound and of defective artifacts answer the serialised model; `with_trillium_metadata`
labels one, and `reference_positive_probabilities` says what it must answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tests.defective_artifacts import (
    bomb,
    decision_scores,
    external_data,
    fixed_batch,
    labels_only,
    nan_output,
    not_onnx,
    regressor,
    string_input,
    three_classes,
    truncated,
    two_inputs,
    two_probability_outputs,
)
from tests.onnx_graphs import serialise
from tests.sound_artifacts import (
    double_input,
    half_input,
    input_for_each_feature,
    iris_rows,
    is_setosa,
    large,
    odd_names,
    one_column_tensor,
    opset9_svm_zipmap,
    output_for_each_class,
    renamed_opset,
    slow,
    string_zipmap,
    two_column_tensor,
    vector,
)

__all__ = [
    "bomb",
    "decision_scores",
    "double_input",
    "external_data",
    "fixed_batch",
    "half_input",
    "input_for_each_feature",
    "iris_rows",
    "is_setosa",
    "labels_only",
    "large",
    "nan_output",
    "not_onnx",
    "odd_names",
    "one_column_tensor",
    "opset9_svm_zipmap",
    "output_for_each_class",
    "reference_positive_probabilities",
    "regressor",
    "renamed_opset",
    "session_of",
    "slow",
    "string_input",
    "string_zipmap",
    "three_classes",
    "truncated",
    "two_column_tensor",
    "two_inputs",
    "two_probability_outputs",
    "vector",
    "with_trillium_metadata",
]

INPUT_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}
LABEL_TYPES = ("tensor(int64)", "tensor(string)")


def with_trillium_metadata(model: bytes, **keys: str) -> bytes:
    """`model` with the property `trillium.<key>` set for each of `keys`; others are kept."""
    proto = onnx.load_from_string(model)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    properties.update({f"trillium.{key}": value for key, value in keys.items()})
    onnx.helper.set_model_props(proto, properties)
    return serialise(proto)


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """Load `model` into plain onnxruntime, on one thread.

    Raises:
        Exception: one of onnxruntime's own; it cannot read the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised as well
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def reference_positive_probabilities(
    model: bytes, rows: npt.ArrayLike, column: int | str
) -> npt.NDArray[Any]:
    """What plain onnxruntime answers for the positive class, to compare bit for bit.

    Reads the output that `trillium.output_name` names, or else the only one that is no label.

    Args:
        model: a sound artifact.
        rows: [n, k]; converted to the float type of the model's input.
        column: the positive class's column in a tensor, or its key in a sequence of maps.

    Returns:
        [n] in the type of the tensor; float32 for maps, whose values are float32 in ONNX.
    """
    session = session_of(model)
    (entry,) = session.get_inputs()
    feed = {entry.name: np.asarray(rows, INPUT_DTYPES[entry.type])}
    name = session.get_modelmeta().custom_metadata_map.get("trillium.output_name")
    if name is None:
        (name,) = (item.name for item in session.get_outputs() if item.type not in LABEL_TYPES)
    answer: Any = session.run([name], feed)[0]
    if isinstance(answer, list):
        return np.array([row[column] for row in answer], np.float32)
    positive: npt.NDArray[Any] = answer if answer.ndim == 1 else answer[:, column]
    return positive
