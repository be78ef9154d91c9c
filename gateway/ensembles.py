"""The ensembles and their scores: `/v1/ensembles/...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.client.answers import Classifications

from .backend import Aggregator
from .control import Version
from .few_errors import FewErrors
from .messages import shortest, to_json
from .operation import HttpRequest, Operation, Promise, Strict, json_response
from .problems import MissingClass, missing_json
from .scoring import Rows, Scoring

TAG = "Ensembles"
REVISION_HEADER = "trillium-revision"
_ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]


class PredictBody(Strict):
    """Rows to score, and the classes to score them for."""

    instances: Rows
    class_labels: Annotated[list[str], FewErrors()] = Field(
        default=[], description="Only these classes, each at most once; empty: all."
    )
    allow_partial: bool = Field(default=False, description="Return the other classes if some fail.")
    revision: Version = Field(
        default=0, description="The revision to ask, which must be loaded; 0: whichever serves."
    )


class ClassifyBody(Strict):
    """Rows to label."""

    instances: Rows
    allow_partial: bool = Field(
        default=False,
        description="Return labels even if some classes fail; a row is undecided if a missing "
        "class could be its label.",
    )
    include_probabilities: bool = Field(
        default=False, description="Also return every class's probability of each row."
    )
    revision: Version = Field(
        default=0, description="The revision to ask, which must be loaded; 0: whichever serves."
    )


class PredictionRoutes(BaseModel):
    """Every class's probability of each row; the sum of a row may differ from 1."""

    ensemble: str = Field(description="Empty if its models have no ensemble name.")
    revision: int = Field(description="That answered; 0 if the ensemble has none.")
    class_labels: list[str] = Field(description="The classes of the columns of `predictions`.")
    predictions: list[list[float]] = Field(description="One row per instance.")
    degraded: bool = Field(description="Whether classes are missing.")
    missing: list[MissingClass]


class Classified(BaseModel):
    """The label of one row."""

    label: str | None = Field(description="Null if undecided.")
    probability: float = Field(description="Of the label, 0 to 1; 0 if undecided.")
    undecided: bool = Field(description="Whether a missing class could be the label.")
    probabilities: list[float] | None = Field(
        description="In the order of `class_labels`; null unless requested."
    )


class ClassifiedAll(BaseModel):
    """The label of each row."""

    ensemble: str = Field(description="Empty if its models have no ensemble name.")
    revision: int = Field(description="That answered; 0 if the ensemble has none.")
    class_labels: list[str] = Field(description="The classes that were scored.")
    classifications: list[Classified] = Field(description="One per instance.")
    degraded: bool = Field(description="Whether classes are missing.")
    missing: list[MissingClass]


class Ensembles:
    """The routes to the aggregator's ensemble."""

    def __init__(self, aggregator: Aggregator, scoring: Scoring) -> None:
        self._aggregator = aggregator
        self._scoring = scoring

    def operations(self) -> Sequence[Operation]:
        metadata = Promise(200, "Its inputs, outputs and limits.", pb.GetMetadataResponse)
        path = "/v1/ensembles/{ensemble}"
        example = {"instances": _ROWS}
        return (
            Operation(
                "POST", f"{path}:predict", TAG, "Get each class's probability of each row",
                self._predict, (Promise(200, "One row per instance.", PredictionRoutes),),
                body=PredictBody, body_example=example, refusals=(404,),
            ),
            Operation(
                "POST", f"{path}:classify", TAG, "Get the most probable class of each row",
                self._classify, (Promise(200, "One label per instance.", ClassifiedAll),),
                body=ClassifyBody, body_example=example, refusals=(404,),
            ),
            Operation(
                "GET", "/v1/ensembles", TAG, "List the ensembles", self._list,
                (Promise(200, "In the order of their names.", pb.ListEnsemblesResponse),),
            ),
            Operation(
                "GET", path, TAG, "Describe the ensemble", self._get, (metadata,),
                refusals=(404,),
            ),
            Operation(
                "GET", f"{path}/predictors", TAG, "List the predictors with address and state",
                self._predictors,
                (Promise(200, "In the order of the classes.", pb.ListPredictorsResponse),),
                refusals=(404,),
            ),
        )  # fmt: skip

    async def _predict(self, http: HttpRequest) -> Response:
        body: PredictBody = http.body
        answer = await self._scoring.predict(
            body.instances,
            http,
            field="instances",
            ensemble=http.path["ensemble"],
            revision=body.revision,
            class_labels=body.class_labels,
            allow_partial=body.allow_partial,
        )
        return json_response(
            {
                "ensemble": answer.ensemble,
                "revision": answer.revision,
                "class_labels": answer.class_labels,
                "predictions": shortest(answer.probabilities),
                "degraded": answer.degraded,
                "missing": [missing_json(each) for each in answer.missing],
            },
            headers={REVISION_HEADER: str(answer.revision)},
        )

    async def _classify(self, http: HttpRequest) -> Response:
        body: ClassifyBody = http.body
        answer = await self._scoring.classify(
            body.instances,
            http,
            field="instances",
            ensemble=http.path["ensemble"],
            revision=body.revision,
            allow_partial=body.allow_partial,
            include_probabilities=body.include_probabilities,
        )
        return json_response(
            {
                "ensemble": answer.ensemble,
                "revision": answer.revision,
                "class_labels": answer.class_labels,
                "classifications": _classified(answer),
                "degraded": answer.degraded,
                "missing": [missing_json(each) for each in answer.missing],
            },
            headers={REVISION_HEADER: str(answer.revision)},
        )

    async def _get(self, http: HttpRequest) -> Response:
        return json_response(to_json(await self._scoring.metadata(http, http.path["ensemble"])))

    async def _predictors(self, http: HttpRequest) -> Response:
        name = http.path["ensemble"]
        await self._scoring.metadata(http, name)
        method, request = (
            self._aggregator.stub.ListPredictors,
            pb.ListPredictorsRequest(ensemble=name),
        )
        return json_response(to_json(await self._aggregator.ask(method, request, http)))

    async def _list(self, http: HttpRequest) -> Response:
        method, request = self._aggregator.stub.ListEnsembles, pb.ListEnsemblesRequest()
        return json_response(to_json(await self._aggregator.ask(method, request, http)))


def _classified(answer: Classifications) -> list[dict[str, Any]]:
    every = answer.class_probabilities
    rows = [None] * len(answer.labels) if every is None else shortest(every)
    return [
        {"label": label, "probability": p, "undecided": label is None, "probabilities": row}
        for label, p, row in zip(answer.labels, shortest(answer.probabilities), rows, strict=True)
    ]
