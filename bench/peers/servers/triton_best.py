"""The ensemble's last step in Triton's Python backend: the classes side by side, and the best."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# The backend does not heed PYTHONPATH. The peer's own packages come before the interpreter's.
sys.path.insert(0, os.environ["BENCH_PACKAGES"])
sys.path.append(os.environ["BENCH_ROOT"])

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from bench.peers.servers.model import LABELS


class TritonPythonModel:
    """Combines all requests of a batch at once."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton."""
        self._labels = np.array([label.encode() for label in LABELS], object)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton, with the requests of one batch."""
        blocks = [
            np.concatenate(
                [triton.get_input_tensor_by_name(each, label).as_numpy() for label in LABELS],
                axis=1,
            )
            for each in requests
        ]
        best = self._labels[np.concatenate(blocks).argmax(axis=1)][:, None]
        parts = np.split(best, np.cumsum([len(block) for block in blocks])[:-1])
        return [
            triton.InferenceResponse(
                [triton.Tensor("probabilities", block), triton.Tensor("label", part)]
            )
            for block, part in zip(blocks, parts, strict=True)
        ]
