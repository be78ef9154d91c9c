"""Iris in Triton's Python backend: the same artifacts that a predictor serves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# The backend does not heed PYTHONPATH.
sys.path.append(os.environ["RECORDER_PATH"])

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """Scores rows with each artifact, and names the most probable class."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton, with the model's configuration as JSON."""
        config = json.loads(args["model_config"])
        paths = config["parameters"]["artifacts"]["string_value"].split(",")
        self._labels = [path.rpartition("-")[2].removesuffix(".onnx") for path in paths]
        self._sessions = [onnxruntime.InferenceSession(path) for path in paths]
        self._names_labels = len(config["output"]) > 1

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton, with the requests of one batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        rows = triton.get_input_tensor_by_name(request, "input").as_numpy()
        columns = [_score(session, rows) for session in self._sessions]
        probabilities = np.stack(columns, axis=1)
        outputs = [triton.Tensor("probabilities", probabilities)]
        if self._names_labels:
            labels = np.array([self._labels[i] for i in probabilities.argmax(axis=1)], object)
            outputs.append(triton.Tensor("label", labels))
        return triton.InferenceResponse(outputs)


def _score(session: Any, rows: Any) -> Any:
    name = session.get_inputs()[0].name
    return session.run(["probabilities"], {name: rows})[0][:, 1]
