"""What an artifact of the training declares of itself."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import skl2onnx
import sklearn

from trillium.model.declared import DeclaredFacts, to_metadata
from trillium.model.description import Example, examples_metadata
from trillium.training.member import OUTPUT_NAME
from trillium.training.methods import Recipe
from trillium.training.split import SPLIT_SEED, Split

_EXAMPLES_PER_CLASS = 2
_EXAMPLE_CLASSES = 10


def metadata(
    split: Split, class_label: str, scores: Mapping[str, float], recipe: Recipe
) -> dict[str, str]:
    """The ONNX metadata of an artifact.

    `sha256` covers the little-endian bytes of the float64 rows followed by the int64 classes.
    """
    table = split.table
    whole = np.flatnonzero(np.isfinite(table.rows).all(axis=1))
    training_set = {
        "name": split.ensemble,
        "sha256": hashlib.sha256(table.rows.tobytes() + table.classes.tobytes()).hexdigest(),
        "row_count": len(table.rows),
        "held_out_row_count": len(split.held_out),
        "split_seed": SPLIT_SEED,
    }
    declared = DeclaredFacts(
        ensemble=split.ensemble,
        class_label=class_label,
        class_labels=table.class_labels,
        positive_column=1,
        output_name=OUTPUT_NAME,
        feature_names=table.feature_names,
        sample=tuple(table.rows[whole[0]].tolist()) if len(whole) else (),
        takes_missing=recipe.method.takes_missing or None,
    )
    others = {
        **examples_metadata(_examples(split)),
        "training_set": json.dumps(training_set),
        "scores": json.dumps({name: round(value, 6) for name, value in scores.items()}),
        "versions": json.dumps(_versions()),
    }
    return to_metadata(declared, others)


def _examples(split: Split) -> Iterator[Example]:
    """The first held-out rows of each class that lack no value, with their true label, whatever the
    models predict."""
    table = split.table
    whole = split.held_out[np.isfinite(table.rows[split.held_out]).all(axis=1)]
    for class_index, label in enumerate(table.class_labels[:_EXAMPLE_CLASSES]):
        for row in whole[table.classes[whole] == class_index][:_EXAMPLES_PER_CLASS]:
            yield Example(tuple(table.rows[row].tolist()), label)


def _versions() -> dict[str, str]:
    """What the artifact was made with."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "skl2onnx": skl2onnx.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }
