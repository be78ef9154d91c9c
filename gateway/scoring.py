"""Rows out of JSON, and the aggregator's answers: what all routes that score have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from pydantic import Field

from gateway.backend import Aggregator
from gateway.few_errors import FewErrors
from gateway.operation import Asked
from gateway.problems import HttpError
from trillium import wire
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.answers import Classifications, Predictions
from trillium.errors import Code, InvalidRequest, Violation
from trillium.rows import WIRE_DTYPE, first_violations, wrong_places
from trillium.tensor.v1 import tensor_pb2

Rows: TypeAlias = Annotated[
    list[Annotated[list[float], Field(min_length=1)]],
    Field(min_length=1, description="Rows of finite numbers, one for each feature."),
    FewErrors(),
]
T = TypeVar("T")


class Scoring:
    """Has rows scored."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    async def predict(
        self,
        rows: Sequence[Sequence[float]],
        asked: Asked,
        *,
        field: str,
        ensemble: str = "",
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
    ) -> Predictions:
        """Every class's probability of each row; `field` names the rows in errors."""
        request = pb.PredictRequest(
            matrix=matrix(rows, field),
            ensemble=ensemble,
            class_labels=class_labels,
            allow_partial=allow_partial,
        )
        return await self._answered(
            self._aggregator.stub.Predict, request, asked, field, wire.predictions
        )

    async def classify(
        self,
        rows: Sequence[Sequence[float]] | tensor_pb2.Float32Matrix,
        asked: Asked,
        *,
        field: str,
        ensemble: str = "",
        allow_partial: bool = False,
        include_probabilities: bool = False,
    ) -> Classifications:
        """The most probable class of each row; `field` names the rows in errors."""
        packed = rows if isinstance(rows, tensor_pb2.Float32Matrix) else matrix(rows, field)
        request = pb.ClassifyRequest(
            matrix=packed,
            ensemble=ensemble,
            allow_partial=allow_partial,
            include_probabilities=include_probabilities,
        )
        return await self._answered(
            self._aggregator.stub.Classify, request, asked, field, wire.classifications
        )

    async def metadata(self, asked: Asked, ensemble: str = "") -> pb.GetMetadataResponse:
        """What the ensemble expects. Raises HttpError if it is not called `ensemble`."""
        stub = self._aggregator.stub
        answer: pb.GetMetadataResponse
        answer = await self._aggregator.ask(stub.GetMetadata, pb.GetMetadataRequest(), asked)
        if ensemble and answer.ensemble and ensemble != answer.ensemble:
            text = f"is {ensemble[:60]!r}; this aggregator serves {answer.ensemble!r}"
            raise _no_ensemble(text)
        return answer

    async def _answered(
        self, method: Any, request: Any, asked: Asked, field: str, read: Callable[[Any], T]
    ) -> T:
        try:
            return read(await self._aggregator.ask(method, request, asked))
        except InvalidRequest as error:
            raise _renamed(error, field) from error


def matrix(rows: Sequence[Sequence[float]], field: str) -> tensor_pb2.Float32Matrix:
    """`rows`, of which there is at least one with a value, as they travel.

    Raises InvalidRequest with every row of another length, or every value that is no finite number
    in float32.
    """
    width = len(rows[0])
    wrong = first_violations(
        Violation(f"{field}[{index}]", f"has {len(row)} values; the first row has {width}")
        for index, row in enumerate(rows)
        if len(row) != width
    )
    if wrong:
        raise InvalidRequest(wrong)
    with np.errstate(over="ignore"):
        array = np.array(rows, np.float64).astype(WIRE_DTYPE)
    if not np.isfinite(array).all():
        raise InvalidRequest(
            [
                Violation(
                    f"{field}[{row}][{column}]", f"is {rows[row][column]:g}; too large for FP32"
                )
                for row, column in wrong_places(~np.isfinite(array))
            ]
        )
    return tensor_pb2.Float32Matrix(row_count=len(rows), column_count=width, data=array.tobytes())


def _renamed(error: InvalidRequest, field: str) -> InvalidRequest | HttpError:
    """The aggregator's complaint about its message as one about the body that it was made of."""
    named = {each.field: each.description for each in error.violations}
    renamed: InvalidRequest | HttpError
    if "ensemble" in named:
        renamed = _no_ensemble(named["ensemble"])
    else:
        renamed = InvalidRequest(
            [
                Violation(field, each.description) if each.field.startswith("matrix") else each
                for each in error.violations
            ]
        )
    renamed.request_id = error.request_id
    return renamed


def _no_ensemble(text: str) -> HttpError:
    return HttpError(404, Code.NOT_FOUND, "ENSEMBLE_NOT_FOUND", f"ensemble: {text}")
