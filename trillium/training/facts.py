"""What an artifact says of itself."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import skl2onnx
import sklearn

from trillium.training.member import OUTPUT_NAME
from trillium.training.split import SPLIT_SEED, Split

_EXAMPLES_PER_CLASS = 2
_EXAMPLE_CLASSES = 10


def metadata(split: Split, class_label: str, scores: Mapping[str, float]) -> dict[str, str]:
    """The `trillium.*` properties of an artifact; all but the plain names are JSON.

    `sha256` covers the little-endian bytes of the float64 rows followed by the int64 classes.
    """
    table = split.table
    training_set = {
        "name": split.ensemble,
        "sha256": hashlib.sha256(table.rows.tobytes() + table.classes.tobytes()).hexdigest(),
        "row_count": len(table.rows),
        "held_out_row_count": len(split.held_out),
        "split_seed": SPLIT_SEED,
    }
    return {
        "trillium.format": "1",
        "trillium.ensemble": split.ensemble,
        "trillium.class_label": class_label,
        "trillium.class_labels": json.dumps(table.class_labels),
        "trillium.positive_column": "1",
        "trillium.output_name": OUTPUT_NAME,
        "trillium.feature_names": json.dumps(table.feature_names),
        "trillium.sample": json.dumps(table.rows[0].tolist()),
        "trillium.examples": json.dumps(list(_examples(split))),
        "trillium.training_set": json.dumps(training_set),
        "trillium.scores": json.dumps({name: round(value, 6) for name, value in scores.items()}),
        "trillium.versions": json.dumps(_versions()),
    }


def _examples(split: Split) -> Iterator[dict[str, Any]]:
    """The first held-out rows of each class, with their true label, whatever the models say."""
    table = split.table
    held_out_classes = table.classes[split.held_out]
    for class_index, label in enumerate(table.class_labels[:_EXAMPLE_CLASSES]):
        for row in split.held_out[held_out_classes == class_index][:_EXAMPLES_PER_CLASS]:
            yield {"features": table.rows[row].tolist(), "label": label}


def _versions() -> dict[str, str]:
    """What the artifact was made with."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "skl2onnx": skl2onnx.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }
