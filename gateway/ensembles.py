"""Scoring in the shape one would choose today: `/v1/ensembles/...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.backend import Aggregator
from gateway.few_errors import FewErrors
from gateway.messages import shortest, to_json
from gateway.operation import Asked, Operation, Promise, Strict, json_response
from gateway.problems import MissingClass, missing_json
from gateway.scoring import Rows, Scoring
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.answers import Classifications

TAG = "Ensembles"
_ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]


class PredictBody(Strict):
    """Asks for every class's probability of each row."""

    instances: Rows
    class_labels: Annotated[list[str], FewErrors()] = Field(
        default=[], description="Ask only these classes; empty means all. Each at most once."
    )
    allow_partial: bool = Field(
        default=False, description="Answer what there is when some classes fail."
    )


class ClassifyBody(Strict):
    """Asks for the label of each row."""

    instances: Rows
    allow_partial: bool = Field(
        default=False,
        description="Answer what there is when some classes fail; rows whose label a missing class "
        "could have won are undecided.",
    )
    include_probabilities: bool = Field(
        default=False, description="Also answer every class's probability of each row."
    )


class Predictions(BaseModel):
    """Every class's probability of each row; a row need not add up to 1."""

    ensemble: str = Field(description="Empty if its models do not say.")
    class_labels: list[str] = Field(description="What the columns of `predictions` stand for.")
    predictions: list[list[float]] = Field(description="One row for each of `instances`.")
    degraded: bool = Field(description="Whether classes are missing.")
    missing: list[MissingClass]


class Classified(BaseModel):
    """The label of one row."""

    label: str | None = Field(description="Null if undecided.")
    probability: float = Field(description="Of the label, 0 to 1; 0 if undecided.")
    undecided: bool = Field(description="Whether a class that did not answer could have won.")
    probabilities: list[float] | None = Field(description="As `class_labels`, if asked for.")


class ClassifiedAll(BaseModel):
    """The label of each row."""

    ensemble: str = Field(description="Empty if its models do not say.")
    class_labels: list[str] = Field(description="The classes that answered.")
    classifications: list[Classified] = Field(description="One for each of `instances`.")
    degraded: bool = Field(description="Whether classes are missing.")
    missing: list[MissingClass]


class Ensembles:
    """Answers for the ensemble behind the aggregator."""

    def __init__(self, aggregator: Aggregator, scoring: Scoring) -> None:
        self._aggregator = aggregator
        self._scoring = scoring

    def operations(self) -> Sequence[Operation]:
        metadata = Promise(200, "What it expects and answers.", pb.GetMetadataResponse)
        path = "/v1/ensembles/{ensemble}"
        example = {"instances": _ROWS}
        return (
            Operation(
                "POST", f"{path}:predict", TAG, "Each class's probability of each row",
                self._predict, (Promise(200, "One row for each instance.", Predictions),),
                body=PredictBody, body_example=example, refusals=(404,),
            ),
            Operation(
                "POST", f"{path}:classify", TAG, "The most probable class of each row",
                self._classify, (Promise(200, "One label for each instance.", ClassifiedAll),),
                body=ClassifyBody, body_example=example, refusals=(404,),
            ),
            Operation(
                "GET", path, TAG, "What the ensemble expects and answers", self._get, (metadata,),
                refusals=(404,),
            ),
            Operation(
                "GET", f"{path}/predictors", TAG, "Every predictor, its address and state",
                self._predictors,
                (Promise(200, "In the order of the classes.", pb.ListPredictorsResponse),),
                refusals=(404,),
            ),
        )  # fmt: skip

    async def _predict(self, asked: Asked) -> Response:
        body: PredictBody = asked.body
        answer = await self._scoring.predict(
            body.instances,
            asked,
            field="instances",
            ensemble=asked.path["ensemble"],
            class_labels=body.class_labels,
            allow_partial=body.allow_partial,
        )
        return json_response(
            {
                "ensemble": answer.ensemble,
                "class_labels": answer.class_labels,
                "predictions": shortest(answer.probabilities),
                "degraded": answer.degraded,
                "missing": [missing_json(each) for each in answer.missing],
            }
        )

    async def _classify(self, asked: Asked) -> Response:
        body: ClassifyBody = asked.body
        answer = await self._scoring.classify(
            body.instances,
            asked,
            field="instances",
            ensemble=asked.path["ensemble"],
            allow_partial=body.allow_partial,
            include_probabilities=body.include_probabilities,
        )
        return json_response(
            {
                "ensemble": answer.ensemble,
                "class_labels": answer.class_labels,
                "classifications": _classified(answer),
                "degraded": answer.degraded,
                "missing": [missing_json(each) for each in answer.missing],
            }
        )

    async def _get(self, asked: Asked) -> Response:
        return json_response(to_json(await self._scoring.metadata(asked, asked.path["ensemble"])))

    async def _predictors(self, asked: Asked) -> Response:
        await self._scoring.metadata(asked, asked.path["ensemble"])
        stub = self._aggregator.stub
        answer = await self._aggregator.ask(stub.ListPredictors, pb.ListPredictorsRequest(), asked)
        return json_response(to_json(answer))


def _classified(answer: Classifications) -> list[dict[str, Any]]:
    every = answer.class_probabilities
    rows = [None] * len(answer.labels) if every is None else shortest(every)
    return [
        {"label": label, "probability": p, "undecided": label is None, "probabilities": row}
        for label, p, row in zip(answer.labels, shortest(answer.probabilities), rows, strict=True)
    ]
