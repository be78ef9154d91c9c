"""The model of one class: fitted, converted to ONNX, and compared with what was fitted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import skl2onnx
from onnx import helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from trillium.training.errors import NotGoodEnough
from trillium.training.methods import Recipe, estimator, has_converged
from trillium.training.split import Split
from trillium.training.table import Rows

Probabilities: TypeAlias = npt.NDArray[np.float32]  # [row, 2]: (the other classes, this class)

TARGET_OPSET = 15  # the converter may settle lower; onnxruntime reads this since 1.10
PARITY_TOLERANCE = 1e-5  # largest allowed |ONNX - scikit-learn|, a probability
OUTPUT_NAME = "probabilities"


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One class's trained model, and what its ONNX form answers for the held-out rows."""

    class_label: str
    model: onnx.ModelProto
    probabilities: Probabilities
    scores: Mapping[str, float]
    deviation: float  # largest |ONNX - scikit-learn| over the held-out split
    converged: bool


def train_member(split: Split, class_index: int, recipe: Recipe) -> Member:
    """Train, convert and score the model of one class.

    Raises:
        NotGoodEnough: the ONNX probabilities are not scikit-learn's.
    """
    class_label = split.table.class_labels[class_index]
    fitted = fit(split, class_index, recipe)
    model = _export(fitted, split, class_label)
    held_out = split.table.rows[split.held_out]
    served = _onnx_probabilities(model.SerializeToString(), held_out)
    deviation = float(np.abs(served - fitted.predict_proba(_served_rows(held_out))).max())
    # Written so that a NaN is refused too.
    if not deviation <= PARITY_TOLERANCE:
        raise NotGoodEnough(
            f"the ONNX model of {split.ensemble}-{class_label} differs from scikit-learn by "
            f"{deviation:.1e}, more than {PARITY_TOLERANCE:.0e}, and nothing was written; "
            f"{_farthest(split)}"
        )
    truth = split.table.classes[split.held_out] == class_index
    positive = served[:, 1].astype(float)
    scores = {
        "accuracy": float(np.mean((positive > 0.5) == truth)),
        "roc_auc": float(roc_auc_score(truth, positive)),
        "log_loss": float(log_loss(truth, positive)),
        "average_precision": float(average_precision_score(truth, positive)),
    }
    converged = has_converged(fitted, recipe)
    return Member(class_label, model, served, scores, deviation, converged)


def fit(split: Split, class_index: int, recipe: Recipe) -> Any:
    """Fit class `class_index` against all others, on the training rows."""
    rows = _served_rows(split.table.rows[split.training])
    # Parallel BLAS may add in a different order from one run to the next; one thread does not.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # `Member.converged` reports it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator(recipe).fit(rows, split.table.classes[split.training] == class_index)


def _served_rows(rows: Rows) -> Rows:
    """`rows` rounded to what a float32 input can hold, still as float64.

    Models are fitted on, and compared with, exactly the numbers that will reach them when served.
    """
    return rows.astype(np.float32).astype(np.float64)


def _export(fitted: Any, split: Split, class_label: str) -> onnx.ModelProto:
    """Convert to ONNX: float32 [None, k] in; label and float32 probabilities [None, 2] out."""
    with warnings.catch_warnings():
        # The converter writes truth values of trees where protobuf would rather have integers.
        warnings.filterwarnings("ignore", "Field onnx.AttributeProto.ints", DeprecationWarning)
        model: onnx.ModelProto = skl2onnx.convert_sklearn(
            fitted,
            name=f"{split.ensemble}-{class_label}",
            initial_types=[("input", FloatTensorType([None, len(split.table.feature_names)]))],
            target_opset=TARGET_OPSET,
            options={"zipmap": False},
        )
    # The converter may list a domain twice, which strict readers reject.
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())
    )
    model.producer_name, model.producer_version = "trillium", "1"
    return model


def _onnx_probabilities(artifact: bytes, rows: Rows) -> Probabilities:
    """What onnxruntime answers for `rows` when it serves `artifact` on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: rows.astype(np.float32)}
    answer: Probabilities = session.run([OUTPUT_NAME], feed)[0]
    return answer


def _farthest(split: Split) -> str:
    """The feature that loses most digits in float32, which is what serving computes with."""
    rows = split.table.rows
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    worst = int(np.argmax(np.abs(centre) / np.maximum(spread, np.finfo(np.float64).tiny)))
    return (
        f"subtract a constant from features far from 0, such as "
        f"{split.table.feature_names[worst]!r} (about {centre[worst]:.6g}, give or take "
        f"{spread[worst]:.2g})"
    )
