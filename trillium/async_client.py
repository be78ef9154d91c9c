"""The asyncio client of an aggregator; `trillium.client` says what both have in common."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any, Self

import grpc
from numpy.typing import ArrayLike

from trillium import wire
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.answers import Classifications, Metadata, Predictions, PredictorStatus, SampleScore
from trillium.columns import names_of
from trillium.config import address as checked_address
from trillium.errors import DeadlineExceeded, TrilliumError, Unreachable
from trillium.rpc.channels import client_channel
from trillium.wire import DEFAULT_ADDRESS, DEFAULT_IN_FLIGHT, DEFAULT_TIMEOUT_S


class AsyncClient:
    """`trillium.Client` for asyncio: arguments, answers and errors are the same.

    Make it inside a running event loop; `close` it, or use it in an `async with`. Cancelling the
    task of a call withdraws the call.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """As `Client`: nothing is sent yet."""
        self._address = checked_address(address)
        self._timeout_s = wire.time_limit(timeout_s)
        self._channel = client_channel(address)
        self._stub = AggregatorServiceStub(self._channel)
        self._check: Any = self._channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with Cancelled."""
        await self._channel.close()

    async def predict(
        self,
        rows: ArrayLike,
        *,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Predictions:
        """Every class's probability of each row; see `Client.predict`."""
        rows, timeout_s = await self._by_name(rows, timeout_s, request_id)
        request = wire.predict_request(rows, class_labels, allow_partial)
        return wire.predictions(await self._ask(self._stub.Predict, request, timeout_s, request_id))

    async def classify(
        self,
        rows: ArrayLike,
        *,
        allow_partial: bool = False,
        include_probabilities: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Classifications:
        """The most probable class of each row; see `Client.classify`."""
        rows, timeout_s = await self._by_name(rows, timeout_s, request_id)
        request = wire.classify_request(rows, allow_partial, include_probabilities)
        answer = await self._ask(self._stub.Classify, request, timeout_s, request_id)
        return wire.classifications(answer)

    async def predict_stream(
        self,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncIterator[Predictions]:
        """`predict` for many batches of rows, in their order; see `Client.predict_stream`.

        `batches` may be asynchronous, too.
        """
        limit, room = self._limit(timeout_s), wire.window(max_in_flight)
        metadata = wire.call_metadata(request_id)
        waiting: deque[tuple[int, Any]] = deque()
        number = 0
        try:
            async for batch in _asynchronous(batches):
                rows, left = await self._batch_by_name(number, batch, limit, request_id)
                request = wire.predict_request(rows, class_labels, allow_partial)
                call = self._stub.Predict(request, timeout=left, metadata=metadata)
                waiting.append((number, call))
                number += 1
                while waiting and (len(waiting) == room or waiting[0][1].done()):
                    yield await self._result(*waiting.popleft(), limit)
            while waiting:
                yield await self._result(*waiting.popleft(), limit)
        finally:
            for _, call in waiting:
                call.cancel()

    async def predict_sample(self, *, timeout_s: float | None = None) -> SampleScore:
        """Score the sample row that the models carry. Raises NoSample if they carry none."""
        request = pb.PredictSampleRequest()
        return wire.sample_score(await self._ask(self._stub.PredictSample, request, timeout_s))

    async def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What the ensemble expects and answers. Raises NoMetadata before it is known."""
        request = pb.GetMetadataRequest()
        return wire.metadata(await self._ask(self._stub.GetMetadata, request, timeout_s))

    async def predictors(self, *, timeout_s: float | None = None) -> tuple[PredictorStatus, ...]:
        """Every predictor that the aggregator knows, in the order of the classes."""
        request = pb.ListPredictorsRequest()
        answer = await self._ask(self._stub.ListPredictors, request, timeout_s)
        return wire.predictor_statuses(answer)

    async def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its services, serves; see `Client.is_serving`."""
        try:
            answer = await self._ask(self._check, wire.health_request(service), timeout_s)
        except (Unreachable, DeadlineExceeded):
            return False
        return wire.is_serving(answer)

    async def _by_name(
        self, rows: ArrayLike, timeout_s: float | None, request_id: str | None
    ) -> tuple[ArrayLike, float | None]:
        """The rows with their columns as the model has them, and the time that is left.

        The names are asked for each time, as the next version of a model may have others.
        """
        if not names_of(rows):
            return rows, timeout_s
        limit, matrix, began = self._limit(timeout_s), wire.as_rows(rows), time.monotonic()
        known = wire.metadata(
            await self._ask(self._stub.GetMetadata, pb.GetMetadataRequest(), limit, request_id)
        )
        left_s = max(wire.LEAST_TIMEOUT_S, limit - (time.monotonic() - began))
        return wire.by_name(rows, matrix, known.feature_names), left_s

    async def _batch_by_name(
        self, number: int, rows: ArrayLike, limit: float, request_id: str | None
    ) -> tuple[ArrayLike, float | None]:
        try:
            return await self._by_name(rows, limit, request_id)
        except TrilliumError as error:
            raise wire.of_batch(error, number) from error.__cause__

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else wire.time_limit(timeout_s)

    async def _ask(
        self, method: Any, request: Any, timeout_s: float | None, request_id: str | None = None
    ) -> Any:
        limit = self._limit(timeout_s)
        try:
            return await method(request, timeout=limit, metadata=wire.call_metadata(request_id))
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, limit) from failure

    async def _result(self, number: int, call: Any, limit: float) -> Predictions:
        # Taken out of the window already, so a cancelled wait withdraws it by itself.
        try:
            return wire.predictions(await call)
        except grpc.RpcError as failure:
            error = wire.error_of(failure, self._address, limit)
            raise wire.of_batch(error, number) from failure


async def _asynchronous(
    batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
) -> AsyncIterator[ArrayLike]:
    if isinstance(batches, AsyncIterable):
        async for rows in batches:
            yield rows
    else:
        for rows in batches:
            yield rows
