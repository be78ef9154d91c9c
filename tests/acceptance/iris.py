"""The iris ensemble as a controller deploys it, and what it must answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.acceptance.controllers import Control
from tests.artifacts import iris_rows, reference_positive_probabilities

IRIS = ("setosa", "versicolor", "virginica")
ROW = iris_rows()[60]


def answer_of(models: Path, *, setosa: bytes = b"") -> npt.NDArray[np.float32]:
    """What the ensemble must answer for `ROW`, with another model of setosa if one is given."""
    artifacts = [(models / f"iris-{label}.onnx").read_bytes() for label in IRIS]
    artifacts[0] = setosa or artifacts[0]
    values = [reference_positive_probabilities(each, ROW[None], 1)[0] for each in artifacts]
    return np.array(values, np.float32)


async def ensemble(control: Control, **replicas: int) -> None:
    """Have a deployment of each class loaded, named for it."""
    await asyncio.gather(
        *(
            control.create(label, f"iris-{label}", replica_count=replicas.get(label, 1))
            for label in IRIS
        )
    )
    await asyncio.gather(*(control.load(label) for label in IRIS))
