"""Scores rows that come as JSON: what the routes of ensembles and of the older proxy share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import numpy as np
from pydantic import Discriminator, Field, Tag

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.client import wire
from trillium.client.answers import Classifications, Predictions
from trillium.errors import Code, InvalidRequest, Violation
from trillium.rows import WIRE_DTYPE, wrong_places
from trillium.tables.columns import exact_places
from trillium.tensor.v1 import tensor_pb2
from trillium.violations import Violations

from .backend import Aggregator
from .few_errors import FewErrors
from .operation import HttpRequest
from .problems import HttpError

Value: TypeAlias = float | None
"""None is a missing value."""
Lists: TypeAlias = Annotated[
    list[Annotated[list[Value], Field(min_length=1)]],
    Field(
        min_length=1,
        description="Rows of finite numbers, one for each feature; null is a missing value.",
    ),
    FewErrors(),
]
Objects: TypeAlias = Annotated[
    list[dict[str, Value]],
    Field(min_length=1, description="Rows with a finite number for each feature, by its name."),
    FewErrors(),
]


def _kind(rows: Any) -> str:
    is_named = isinstance(rows, list) and rows and isinstance(rows[0], dict)
    return "list[object]" if is_named else "list[list[float]]"


Rows: TypeAlias = Annotated[
    Annotated[Lists, Tag("list[list[float]]")] | Annotated[Objects, Tag("list[object]")],
    Discriminator(_kind),
]
"""The tags are left out of the paths of fields."""
GivenRows: TypeAlias = Sequence[Sequence[Value]] | Sequence[Mapping[str, Value]]
T = TypeVar("T")


class Scoring:
    """Scores rows by the aggregator."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    async def predict(
        self,
        rows: GivenRows,
        http: HttpRequest,
        *,
        field: str,
        ensemble: str = "",
        revision: int = 0,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
    ) -> Predictions:
        """Every class's probability of each row; `field` names the rows in errors."""
        ordered, revision = await self._in_order(rows, http, field, ensemble, revision)
        request = pb.PredictRequest(
            matrix=matrix(ordered, field),
            ensemble=ensemble,
            revision=revision,
            class_labels=class_labels,
            allow_partial=allow_partial,
        )
        return await self._answered(
            self._aggregator.stub.Predict, request, http, field, wire.predictions
        )

    async def classify(
        self,
        rows: GivenRows,
        http: HttpRequest,
        *,
        field: str,
        ensemble: str = "",
        revision: int = 0,
        allow_partial: bool = False,
        include_probabilities: bool = False,
    ) -> Classifications:
        """The most probable class of each row; `field` names the rows in errors."""
        ordered, revision = await self._in_order(rows, http, field, ensemble, revision)
        request = pb.ClassifyRequest(
            matrix=matrix(ordered, field),
            ensemble=ensemble,
            revision=revision,
            allow_partial=allow_partial,
            include_probabilities=include_probabilities,
        )
        return await self._answered(
            self._aggregator.stub.Classify, request, http, field, wire.classifications
        )

    async def _in_order(
        self, rows: GivenRows, http: HttpRequest, field: str, ensemble: str, revision: int
    ) -> tuple[Sequence[Sequence[Value]], int]:
        """The rows, those by name in the order of the model's features, and the revision to ask:
        for those by name the one whose order that is. Raises InvalidRequest."""
        first = rows[0]
        if not isinstance(first, Mapping):
            return cast(Sequence[Sequence[Value]], rows), revision
        known = await self.metadata(http, ensemble, revision)
        names = known.feature_names
        if not names:
            text = "has names, and the models declare none for their features: send lists"
            raise InvalidRequest.of(f"{field}[0]", text)
        orders: dict[tuple[str, ...], list[str]] = {}
        ordered = []
        for index, row in enumerate(cast(Sequence[Mapping[str, Value]], rows)):
            keys = tuple(row)
            if keys not in orders:
                try:
                    orders[keys] = [keys[at] for at in exact_places(keys, names)]
                except ValueError as error:
                    raise InvalidRequest.of(f"{field}[{index}]", str(error)) from error
            ordered.append([row[key] for key in orders[keys]])
        return ordered, known.revision

    async def metadata(
        self, http: HttpRequest, ensemble: str = "", revision: int = 0
    ) -> pb.GetMetadataResponse:
        """The ensemble's inputs and outputs. Raises HttpError if it is not named `ensemble`."""
        method = self._aggregator.stub.GetMetadata
        request = pb.GetMetadataRequest(ensemble=ensemble, revision=revision)
        answer: pb.GetMetadataResponse
        answer = await self._answered(method, request, http, "", lambda each: each)
        return answer

    async def _answered(
        self, method: Any, request: Any, http: HttpRequest, field: str, read: Callable[[Any], T]
    ) -> T:
        try:
            return read(await self._aggregator.ask(method, request, http))
        except InvalidRequest as error:
            for each in error.violations:
                if each.field == "ensemble":
                    raise _no_ensemble(each.description, error.request_id) from error
            raise renamed(error, "matrix", field) from error


def matrix(rows: Sequence[Sequence[Value]], field: str) -> tensor_pb2.Float32Matrix:
    """`rows`, at least one with at least one value, as a message; a missing value is NaN.

    Raises InvalidRequest with every row whose length differs from the first row's, or with every
    value that is too large for FP32.
    """
    width = len(rows[0])
    violations = Violations()
    violations.extend(
        Violation(f"{field}[{index}]", f"has {len(row)} values; the first row has {width}")
        for index, row in enumerate(rows)
        if len(row) != width
    )
    violations.raise_any()
    with np.errstate(over="ignore"):
        array = np.array(rows, np.float64).astype(WIRE_DTYPE)
    if np.isinf(array).any():
        for row, column in wrong_places(np.isinf(array)):
            text = f"is {rows[row][column]:g}; too large for FP32"
            violations.add(f"{field}[{row}][{column}]", text)
        violations.raise_any()
    return tensor_pb2.Float32Matrix(row_count=len(rows), column_count=width, data=array.tobytes())


def renamed(error: InvalidRequest, prefix: str, field: str) -> InvalidRequest:
    """`error` with the body's `field` in place of each field of the message under `prefix`."""
    result = InvalidRequest(
        [
            Violation(field, each.description) if each.field.startswith(prefix) else each
            for each in error.violations
        ]
    )
    result.request_id = error.request_id
    return result


def _no_ensemble(text: str, request_id: str) -> HttpError:
    error = HttpError(404, Code.NOT_FOUND, "ENSEMBLE_NOT_FOUND", f"ensemble: {text}")
    error.request_id = request_id
    return error
