"""The routes of the older proxy, with its response formats.

One row has the format of the older proxy. For several rows, of which the older proxy scored only
the first, a list takes the place of the single value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.responses import Response

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.errors import NoSample

from .backend import Aggregator
from .messages import enum_name, shortest
from .operation import HttpRequest, Operation, Promise, json_response
from .scoring import Lists, Scoring

TAG = "The older proxy"
_EXAMPLE = {"data": [[5.1, 3.5, 1.4, 0.2]]}
_PREDICTED = {
    "setosa": {"prediction": [0.9940712451934814, 0.005928754806518555]},
    "versicolor": {"prediction": [0.006389796733856201, 0.9936102032661438]},
    "virginica": {"prediction": [7.152557373046875e-06, 0.999992847442627]},
}
_METADATA = {
    "data_type": "float32",
    "data_structure": "(1,4)",
    "data_sample": [[5.1, 3.5, 1.4, 0.2]],
    "prediction_type": "float32",
    "prediction_structure": "(1,2)",
    "prediction_sample": {
        f"service_{label}": each["prediction"] for label, each in _PREDICTED.items()
    },
}


class Data(BaseModel):
    """Rows to score. Unknown keys are ignored, as by the older proxy."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    data: Lists


class ProxyHealth(BaseModel):
    """Whether the gateway accepts requests."""

    health: Literal["ok"]


class ClassHealth(BaseModel):
    """Whether a class is ready."""

    health: str = Field(
        description='"ok" while at least one of its predictors is ready; otherwise why none is.'
    )


class AllHealth(RootModel[dict[str, ClassHealth]]):
    """Every class by its label."""


class ProxyMetadata(BaseModel):
    """What the ensemble takes and returns, by the example of one row."""

    data_type: Literal["float32"]
    data_structure: str = Field(description="Shape of one row: `(1,4)` for four features.")
    data_sample: list[list[float]] = Field(description="One row; none if there is no sample.")
    prediction_type: Literal["float32"]
    prediction_structure: Literal["(1,2)"]
    prediction_sample: dict[str, list[float]] = Field(
        description="The prediction of each class for that row, under `service_` and its label."
    )


class ClassPrediction(BaseModel):
    """The prediction of one class."""

    prediction: list[float] | list[list[float]] = Field(
        description="One row: [p, 1 - p]. Several rows: one such pair for each."
    )


class Prediction(RootModel[dict[str, ClassPrediction]]):
    """Every class by its label."""


class Label(BaseModel):
    """The most probable class of a row."""

    proba: float = Field(description="The probability of `label`, 0 to 1.")
    label: str


class LabelPrediction(BaseModel):
    """The label of one row, or one for each of several."""

    prediction: Label | list[Label]


class Proxy:
    """The routes of the older proxy."""

    def __init__(
        self, aggregator: Aggregator, scoring: Scoring, *, sample: Sequence[float] = ()
    ) -> None:
        """`sample` is a row for models that carry none."""
        self._aggregator = aggregator
        self._scoring = scoring
        self._own_sample = sample

    def operations(self) -> Sequence[Operation]:
        predicted = Promise(200, "The probability of each class.", Prediction, example=_PREDICTED)
        labelled = Promise(
            200,
            "The most probable class.",
            LabelPrediction,
            example={"prediction": {"proba": 0.9940712451934814, "label": "setosa"}},
        )
        several = (
            "Returns `[p, 1 - p]` per class for one row, and a list of such pairs in the order of "
            "the rows for several."
        )
        sample = "Scores the sample row of the models."
        return (
            Operation(
                "POST", "/predict", TAG, "Get each class's probability", self._predict,
                (predicted,), description=several, body=Data, body_example=_EXAMPLE,
            ),
            Operation(
                "POST", "/predict/label", TAG, "Get the most probable class", self._label,
                (labelled,),
                description="Returns an object for one row, and a list of objects for several.",
                body=Data, body_example=_EXAMPLE,
            ),
            Operation(
                "GET", "/predict/get/test", TAG, "Score a sample row", self._sample, (predicted,),
                description=sample,
            ),
            Operation(
                "GET", "/predict/post/test", TAG, "Score a sample row", self._sample, (predicted,),
                description=sample,
            ),
            Operation(
                "POST", "/predict/post/test", TAG, "Score a sample row", self._post_sample,
                (predicted,),
                description=f"{sample} With a body, the same as POST /predict.",
                body=OptionalData, body_optional=True, body_example=_EXAMPLE,
            ),
            Operation(
                "GET", "/metadata", TAG, "Describe the ensemble", self._metadata,
                (Promise(200, "Shapes and an example.", ProxyMetadata, example=_METADATA),),
                description="`GET /v1/ensembles/{ensemble}` has more facts.",
            ),
            Operation(
                "GET", "/health", TAG, "Report whether the gateway is running", self._health,
                (Promise(200, "It accepts requests.", ProxyHealth),), local=True,
                description="Does not check the services behind it; see /health/all.",
            ),
            Operation(
                "GET", "/health/all", TAG, "Report whether each class is ready", self._health_all,
                (
                    Promise(200, "Every class is ready.", AllHealth),
                    Promise(503, "At least one class is not ready, or none is known.", AllHealth),
                ),
            ),
        )  # fmt: skip

    async def _predict(self, http: HttpRequest) -> Response:
        return await self._scored(http.body.data, http)

    async def _post_sample(self, http: HttpRequest) -> Response:
        if http.body.data is None:
            return await self._sample(http)
        return await self._scored(http.body.data, http)

    async def _scored(self, rows: Lists, http: HttpRequest) -> Response:
        answer = await self._scoring.predict(rows, http, field="data")
        return json_response(_by_class(answer.class_labels, answer.probabilities))

    async def _label(self, http: HttpRequest) -> Response:
        answer = await self._scoring.classify(http.body.data, http, field="data")
        probabilities = answer.probabilities.astype(np.float64).tolist()
        pairs = zip(probabilities, answer.labels, strict=True)
        labels = [{"proba": probability, "label": label} for probability, label in pairs]
        return json_response({"prediction": labels if len(labels) > 1 else labels[0]})

    async def _sample(self, http: HttpRequest) -> Response:
        return json_response((await self._scored_sample(http))[1])

    async def _scored_sample(self, http: HttpRequest) -> tuple[list[float], dict[str, Any]]:
        """The sample of the models, or the gateway's own, and its predictions. Raises NoSample."""
        stub = self._aggregator.stub
        try:
            answer = await self._aggregator.ask(stub.PredictSample, pb.PredictSampleRequest(), http)
        except NoSample:
            if not self._own_sample:
                raise
            row = list(self._own_sample)
            scored = await self._scoring.predict([row], http, field="sample")
            return row, _by_class(scored.class_labels, scored.probabilities)
        probabilities = np.array([answer.probabilities], np.float32)
        return shortest(answer.features), _by_class(answer.class_labels, probabilities)

    async def _metadata(self, http: HttpRequest) -> Response:
        known = await self._scoring.metadata(http)
        sample: list[Any] = []
        predictions: dict[str, Any] = {}
        with suppress(NoSample):
            row, predictions = await self._scored_sample(http)
            sample = [row]
        return json_response(
            {
                "data_type": "float32",
                "data_structure": f"(1,{known.feature_count})",
                "data_sample": sample,
                "prediction_type": "float32",
                "prediction_structure": "(1,2)",
                "prediction_sample": {
                    f"service_{label}": each["prediction"] for label, each in predictions.items()
                },
            }
        )

    async def _health(self, http: HttpRequest) -> Response:
        return json_response({"health": "ok"})

    async def _health_all(self, http: HttpRequest) -> Response:
        stub = self._aggregator.stub
        answer = await self._aggregator.ask(stub.ListPredictors, pb.ListPredictorsRequest(), http)
        classes = _health_of(answer.predictors)
        ready = bool(classes) and all(one["health"] == "ok" for one in classes.values())
        return json_response(classes, 200 if ready else 503)


class OptionalData(BaseModel):
    """Rows to score; the sample row if absent."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    data: Lists | None = None


def _by_class(labels: Sequence[str], probabilities: Any) -> dict[str, Any]:
    """Probabilities [n, classes] in the format of the older proxy: float32 values, and their
    complements, with all digits of the float64 that they are."""
    wide = np.asarray(probabilities).astype(np.float64)
    rows = np.stack((wide, 1 - wide), axis=-1).tolist()
    return {
        label: {"prediction": [row[index] for row in rows] if len(rows) > 1 else rows[0][index]}
        for index, label in enumerate(labels)
    }


def _health_of(predictors: Sequence[pb.Predictor]) -> Mapping[str, Any]:
    classes: dict[str, Any] = {}
    for each in predictors:
        entry = classes.setdefault(each.class_label, {"health": ""})
        if each.state == pb.PREDICTOR_STATE_READY:
            entry["health"] = "ok"
        elif not entry["health"]:
            state = enum_name(pb.PredictorState.DESCRIPTOR, each.state)
            entry["health"] = f"{state}: {each.detail}" if each.detail else state
    return classes
