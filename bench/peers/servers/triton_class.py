"""One class in Triton's Python backend."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# The backend does not heed PYTHONPATH. The peer's own packages come before the interpreter's.
sys.path.insert(0, os.environ["BENCH_PACKAGES"])
sys.path.append(os.environ["BENCH_ROOT"])

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from bench.peers.servers.model import Model


class TritonPythonModel:
    """Scores all requests of a batch in one run."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton, with the model's configuration as JSON."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._model = Model(parameters["artifact"]["string_value"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton, with the requests of one batch."""
        blocks = [triton.get_input_tensor_by_name(each, "input").as_numpy() for each in requests]
        scores = self._model.score(np.concatenate(blocks))[:, None]
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        return [
            triton.InferenceResponse([triton.Tensor("probability", part)])
            for part in np.split(scores, ends)
        ]
