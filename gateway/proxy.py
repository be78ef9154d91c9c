"""The routes of the older proxy, with its shapes.

One row is answered as it always was. Several rows, of which the older one answered the first only,
are answered with a list where one row has its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.responses import Response

from gateway.backend import Aggregator
from gateway.messages import enum_name, shortest, to_json
from gateway.operation import Asked, Operation, Promise, json_response
from gateway.scoring import Rows, Scoring
from trillium.aggregator.v1 import aggregator_service_pb2 as pb

TAG = "The older proxy"
_EXAMPLE = {"data": [[5.1, 3.5, 1.4, 0.2]]}
_PREDICTED = {
    "setosa": {"prediction": [0.99407125, 0.00592875]},
    "versicolor": {"prediction": [0.0055, 0.9945]},
    "virginica": {"prediction": [0.0001, 0.9999]},
}


class Data(BaseModel):
    """Rows to score. Other keys are ignored, as they always were."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    data: Rows


class Health(BaseModel):
    """Whether the gateway takes requests."""

    status: Literal["SERVING"]


class PredictorHealth(BaseModel):
    """One predictor of a class."""

    address: str
    state: str = Field(description="CONNECTING, READY, UNAVAILABLE or MISMATCHED.")
    detail: str = Field(description="Why it is not asked; empty when READY.")


class ClassHealth(BaseModel):
    """Whether a class can answer."""

    status: Literal["SERVING", "NOT_SERVING"] = Field(
        description="SERVING while at least one of its predictors is READY."
    )
    predictors: list[PredictorHealth]


class AllHealth(RootModel[dict[str, ClassHealth]]):
    """Every class by its label."""


class ClassPrediction(BaseModel):
    """What the model of one class says."""

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
    """Answers as the older proxy did."""

    def __init__(self, aggregator: Aggregator, scoring: Scoring) -> None:
        self._aggregator = aggregator
        self._scoring = scoring

    def operations(self) -> Sequence[Operation]:
        predicted = Promise(200, "The probability of each class.", Prediction, example=_PREDICTED)
        labelled = Promise(
            200,
            "The most probable class.",
            LabelPrediction,
            example={"prediction": {"proba": 0.99407125, "label": "setosa"}},
        )
        several = (
            "One row is answered with `[p, 1 - p]` for each class, several rows with a list of "
            "such pairs, in the order of the rows."
        )
        sample = "Scores the row that the models carry, without any input."
        return (
            Operation(
                "POST", "/predict", TAG, "Each class's probability", self._predict, (predicted,),
                description=several, body=Data, body_example=_EXAMPLE,
            ),
            Operation(
                "POST", "/predict/label", TAG, "The most probable class", self._label, (labelled,),
                description="One row is answered with an object, several rows with a list of them.",
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
                description=f"{sample} With a body it does what POST /predict does.",
                body=OptionalData, body_optional=True, body_example=_EXAMPLE,
            ),
            Operation(
                "GET", "/metadata", TAG, "What the ensemble expects and answers", self._metadata,
                (Promise(200, "Features, classes, shapes, a sample.", pb.GetMetadataResponse),),
            ),
            Operation(
                "GET", "/health", TAG, "Is the gateway up?", self._health,
                (Promise(200, "It takes requests.", Health),), local=True,
                description="Says nothing of what is behind it: /health/all does.",
            ),
            Operation(
                "GET", "/health/all", TAG, "Can every class answer?", self._health_all,
                (
                    Promise(200, "Every class can.", AllHealth),
                    Promise(503, "Some cannot, or none is known.", AllHealth),
                ),
            ),
        )  # fmt: skip

    async def _predict(self, asked: Asked) -> Response:
        return await self._scored(asked.body.data, asked)

    async def _post_sample(self, asked: Asked) -> Response:
        if asked.body.data is None:
            return await self._sample(asked)
        return await self._scored(asked.body.data, asked)

    async def _scored(self, rows: Rows, asked: Asked) -> Response:
        answer = await self._scoring.predict(rows, asked, field="data")
        return json_response(_by_class(answer.class_labels, answer.probabilities))

    async def _label(self, asked: Asked) -> Response:
        answer = await self._scoring.classify(asked.body.data, asked, field="data")
        labels = [
            {"proba": probability, "label": label}
            for probability, label in zip(
                shortest(answer.probabilities), answer.labels, strict=True
            )
        ]
        return json_response({"prediction": labels if len(labels) > 1 else labels[0]})

    async def _sample(self, asked: Asked) -> Response:
        stub = self._aggregator.stub
        answer = await self._aggregator.ask(stub.PredictSample, pb.PredictSampleRequest(), asked)
        row = np.array([answer.probabilities], np.float32)
        return json_response(_by_class(answer.class_labels, row))

    async def _metadata(self, asked: Asked) -> Response:
        return json_response(to_json(await self._scoring.metadata(asked)))

    async def _health(self, asked: Asked) -> Response:
        return json_response({"status": "SERVING"})

    async def _health_all(self, asked: Asked) -> Response:
        stub = self._aggregator.stub
        answer = await self._aggregator.ask(stub.ListPredictors, pb.ListPredictorsRequest(), asked)
        found = _health_of(answer.predictors)
        whole = bool(found) and all(each["status"] == "SERVING" for each in found.values())
        return json_response(found, 200 if whole else 503)


class OptionalData(BaseModel):
    """Rows to score; without them a sample row is."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    data: Rows | None = None


def _by_class(labels: Sequence[str], probabilities: Any) -> dict[str, Any]:
    """[n, classes] as the older proxy wrote it."""
    pairs = np.stack((probabilities, np.float32(1) - probabilities), axis=-1)
    rows = shortest(pairs)
    return {
        label: {"prediction": [row[index] for row in rows] if len(rows) > 1 else rows[0][index]}
        for index, label in enumerate(labels)
    }


def _health_of(predictors: Sequence[pb.Predictor]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for each in predictors:
        entry = found.setdefault(each.class_label, {"status": "NOT_SERVING", "predictors": []})
        if each.state == pb.PREDICTOR_STATE_READY:
            entry["status"] = "SERVING"
        state = enum_name(pb.PredictorState.DESCRIPTOR, each.state)
        one = {"address": each.address, "state": state, "detail": each.detail}
        entry["predictors"].append(one)
    return found
