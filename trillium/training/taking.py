"""A fitted classifier of scikit-learn as it is: cut into one binary model for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trillium.model.declared import DeclaredFacts, to_metadata
from trillium.training.errors import TableRefused
from trillium.training.names import check_ensemble
from trillium.training.packages import check_packages

_TARGET_OPSET = 15
_INPUT, _ALL, _OWN = "input", "probabilities", "probability"


def artifacts_of(
    classifier: Any,
    *,
    ensemble: str,
    feature_names: Sequence[str] = (),
    sample: Sequence[float] = (),
    takes_missing: bool = False,
) -> Mapping[str, bytes]:
    """An artifact for each class of a fitted classifier, by its label.

    Each one is the whole classifier and answers its class's column, so that together they answer
    what `classifier.predict_proba` does, in float32.

    Args:
        classifier: fitted, with `classes_`, `n_features_in_` and `predict_proba`, of a kind that
            skl2onnx converts.
        ensemble: its name: letters, digits, ".", "_" and "-", at most 64.
        feature_names: in column order; those that the classifier was fitted with if not given.
        sample: a row to try.
        takes_missing: whether a value of a row may be missing, which is NaN.

    Raises:
        TableRefused: it is not fitted, or has no probabilities.
        PackagesMissing: the extra `train` is not installed.
    """
    check_ensemble(ensemble)
    check_packages()
    for name in ("classes_", "n_features_in_", "predict_proba"):
        if not hasattr(classifier, name):
            text = f"a {type(classifier).__name__} has no {name}: expected a fitted classifier"
            raise TableRefused(f"{text} with probabilities")
    labels = tuple(map(str, classifier.classes_))
    own = getattr(classifier, "feature_names_in_", ())
    names = tuple(map(str, feature_names)) or tuple(map(str, own))
    whole = _converted(classifier)
    return {
        label: _of_class(
            whole,
            column,
            DeclaredFacts(
                ensemble=ensemble,
                class_label=label,
                class_labels=labels,
                positive_column=0,
                output_name=_OWN,
                feature_names=names,
                sample=tuple(map(float, sample)),
                takes_missing=takes_missing or None,
            ),
        )
        for column, label in enumerate(labels)
    }


def _converted(classifier: Any) -> Any:
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    return skl2onnx.convert_sklearn(
        classifier,
        initial_types=[(_INPUT, FloatTensorType([None, classifier.n_features_in_]))],
        target_opset=_TARGET_OPSET,
        options={id(classifier): {"zipmap": False}},
    )


def _of_class(whole: Any, column: int, facts: DeclaredFacts) -> bytes:
    """The model with one column of its probabilities as its only output, float [n, 1]."""
    import numpy as np
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(whole)
    graph = model.graph
    index = onnx.numpy_helper.from_array(np.array([column]), "trillium_column")
    graph.initializer.append(index)
    graph.node.append(onnx.helper.make_node("Gather", [_ALL, index.name], [_OWN], axis=1))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(_OWN, onnx.TensorProto.FLOAT, [None, 1]))
    onnx.helper.set_model_props(model, to_metadata(facts, {}))
    artifact: bytes = model.SerializeToString(deterministic=True)
    return artifact
