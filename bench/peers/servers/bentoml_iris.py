"""BentoML: a service for each class, and one that depends on them."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any, ClassVar

import bentoml
import numpy as np
from bentoml.validators import DType

from bench.peers.servers.model import LABELS, Model, path_of

_QUIET = {"access": {"enabled": False}}
Floats = Annotated[np.ndarray, DType("float32")]


class _Class:
    label: ClassVar[str]

    def __init__(self) -> None:
        self._model = Model(path_of(os.environ["BENCH_MODELS"], self.label))

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=30000)
    def score(self, rows: Floats) -> Floats:
        """The class's probability of each row."""
        return self._model.score(rows)


@bentoml.service(workers=1, logging=_QUIET)
class Setosa(_Class):
    """The first class."""

    label = "setosa"


@bentoml.service(workers=1, logging=_QUIET)
class Versicolor(_Class):
    """The second."""

    label = "versicolor"


@bentoml.service(workers=1, logging=_QUIET)
class Virginica(_Class):
    """The third."""

    label = "virginica"


@bentoml.service(workers=1, logging=_QUIET)
class Iris:
    """Asks the three classes at once."""

    setosa = bentoml.depends(Setosa)
    versicolor = bentoml.depends(Versicolor)
    virginica = bentoml.depends(Virginica)

    @bentoml.api
    async def classify(self, rows: Floats) -> dict[str, Any]:
        """Every class's probability, and the label."""
        services = (self.setosa, self.versicolor, self.virginica)
        asked = (service.to_async.score(rows) for service in services)
        scores = np.stack(await asyncio.gather(*asked), axis=1)
        labels = [LABELS[index] for index in scores.argmax(axis=1)]
        return {"probabilities": scores.tolist(), "labels": labels}
