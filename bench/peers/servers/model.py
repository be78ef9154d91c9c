"""One class's ONNX model, on one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

LABELS = ("setosa", "versicolor", "virginica")


class Model:
    """Scores rows."""

    def __init__(self, path: Path | str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def score(self, rows: Any) -> Any:
        """The class's probability of each of `rows` [n, 4], float32 [n]."""
        rows = np.asarray(rows, np.float32)
        (probabilities,) = self._session.run(["probabilities"], {self._input: rows})
        return probabilities[:, 1]


def path_of(models: str, label: str) -> str:
    """Where a class's artifact is."""
    return f"{models}/iris-{label}.onnx"
