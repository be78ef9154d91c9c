"""The asyncio client of an aggregator; see `trillium.client.sync` for the blocking one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Sequence,
)
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

import grpc
from numpy.typing import ArrayLike

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.client import wire
from trillium.client.answers import (
    Classifications,
    EnsembleSummary,
    Metadata,
    Predictions,
    PredictorStatus,
    SampleScore,
)
from trillium.client.credentials import access_of
from trillium.client.loops import LoopChannel
from trillium.client.wire import (
    DEFAULT_ADDRESS,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT_S,
    Asked,
)
from trillium.errors import DeadlineExceeded, TrilliumError, Unreachable
from trillium.rows import Rows
from trillium.server.config import address as checked_address
from trillium.tables.columns import names_of

T = TypeVar("T")


class _Stubs:
    """What the calls of a client are made on."""

    def __init__(self, channel: Any) -> None:
        self.aggregator: Any = AggregatorServiceStub(channel)
        self.check: Any = channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)


class AsyncClient:
    """`trillium.Client` for asyncio: arguments, answers and errors are the same.

    `close` it, or use it in an `async with`. Cancelling the task of a call withdraws the call. It
    may be made anywhere and serve one event loop after another, but only one at a time.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        ensemble: str = "",
        revision: int = 0,
        sticky_key: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        token: str = "",
        tls_ca: str = "",
    ) -> None:
        """As `Client`: nothing is sent yet."""
        self._address = checked_address(address)
        self._ensemble = ensemble
        self._revision = revision
        self._sticky_key = wire.checked_sticky_key(sticky_key)
        self._timeout_s = wire.time_limit(timeout_s)
        self._known: Metadata | None = None  # Limits, which a server keeps as long as it lives.
        self._channel = LoopChannel(self, self._address, access_of(token, tls_ca), _Stubs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise wire.not_pickled(self)

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
        ask = partial(self._predicting, class_labels, allow_partial)
        answers = await self._in_parts(rows, ask, timeout_s, request_id)
        return answers[0] if len(answers) == 1 else wire.joined_predictions(answers)

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
        ask = partial(self._classifying, allow_partial, include_probabilities)
        answers = await self._in_parts(rows, ask, timeout_s, request_id)
        return answers[0] if len(answers) == 1 else wire.joined_classifications(answers)

    def predict_stream(
        self,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncGenerator[Predictions]:
        """`predict` for many batches of rows, in their order; see `Client.predict_stream`.

        `batches` may be asynchronous, too.
        """
        ask = partial(self._predicting, class_labels, allow_partial)
        return self._stream(batches, ask, timeout_s, request_id, max_in_flight)

    def classify_stream(
        self,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        allow_partial: bool = False,
        include_probabilities: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncGenerator[Classifications]:
        """`classify` for many batches of rows; see `predict_stream`."""
        ask = partial(self._classifying, allow_partial, include_probabilities)
        return self._stream(batches, ask, timeout_s, request_id, max_in_flight)

    async def predict_sample(self, *, timeout_s: float | None = None) -> SampleScore:
        """Score the sample row that the models carry. Raises NoSample if they carry none."""
        request = pb.PredictSampleRequest(ensemble=self._ensemble, revision=self._revision)
        return wire.sample_score(
            await self._ask(self._channel.stubs().aggregator.PredictSample, request, timeout_s)
        )

    async def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What the ensemble expects and answers. Raises NoMetadata before it is known."""
        request = pb.GetMetadataRequest(ensemble=self._ensemble, revision=self._revision)
        return wire.metadata(
            await self._ask(self._channel.stubs().aggregator.GetMetadata, request, timeout_s)
        )

    async def pin(self, *, timeout_s: float | None = None) -> Metadata:
        """Have all later calls answered by the revision that serves now, for as long as that is
        loaded; returns its metadata. Raises NoMetadata before it is known."""
        known = await self.metadata(timeout_s=timeout_s)
        self._revision = known.revision
        return known

    async def ensembles(self, *, timeout_s: float | None = None) -> tuple[EnsembleSummary, ...]:
        """Every ensemble that the aggregator serves, in the order of their names."""
        request = pb.ListEnsemblesRequest()
        method = self._channel.stubs().aggregator.ListEnsembles
        return wire.ensemble_statuses(await self._ask(method, request, timeout_s))

    async def predictors(self, *, timeout_s: float | None = None) -> tuple[PredictorStatus, ...]:
        """Every predictor that the aggregator knows, in the order of the classes."""
        request = pb.ListPredictorsRequest(ensemble=self._ensemble)
        answer = await self._ask(
            self._channel.stubs().aggregator.ListPredictors, request, timeout_s
        )
        return wire.predictor_statuses(answer)

    async def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its services, serves; see `Client.is_serving`."""
        try:
            answer = await self._ask(
                self._channel.stubs().check, wire.health_request(service), timeout_s
            )
        except (Unreachable, DeadlineExceeded):
            return False
        return wire.is_serving(answer)

    def _predicting(
        self, class_labels: Sequence[str], allow_partial: bool, rows: Rows
    ) -> Asked[Predictions]:
        request = wire.predict_request(
            rows, class_labels, allow_partial, self._ensemble, self._revision
        )
        return Asked(self._channel.stubs().aggregator.Predict, request, wire.predictions)

    def _classifying(
        self, allow_partial: bool, include_probabilities: bool, rows: Rows
    ) -> Asked[Classifications]:
        request = wire.classify_request(
            rows, allow_partial, include_probabilities, self._ensemble, self._revision
        )
        return Asked(self._channel.stubs().aggregator.Classify, request, wire.classifications)

    async def _in_parts(
        self,
        values: ArrayLike,
        ask: Callable[[Rows], Asked[T]],
        timeout_s: float | None,
        request_id: str | None,
    ) -> Sequence[T]:
        """The answers for rows of any number, in as many calls as the server's limits demand."""
        limit, began = self._limit(timeout_s), time.monotonic()
        rows, most, revision = await self._prepared(values, limit, request_id)
        if len(rows) <= most:
            question = wire.pinned(ask(rows), revision)
            answer = await self._ask(question.method, question.request, limit, request_id, began)
            return [question.read(answer)]
        pieces = wire.parts(rows, most)
        question = wire.pinned(ask(pieces[0]), revision)
        answer = await self._ask(question.method, question.request, limit, request_id, began)

        def same(rows: Rows) -> Asked[T]:
            return wire.pinned(ask(rows), answer.revision)

        others = self._stream(pieces[1:], same, limit, request_id, began=began)
        return [question.read(answer), *[each async for each in others]]

    async def _stream(
        self,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        ask: Callable[[Rows], Asked[T]],
        timeout_s: float | None,
        request_id: str | None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        *,
        began: float | None = None,
    ) -> AsyncGenerator[T]:
        """An answer for each batch. With `began`, all together have the time limit from then on."""
        # One call for each batch, not one stream: gRPC then watches over each one's deadline.
        limit, room = self._limit(timeout_s), wire.window(max_in_flight)
        metadata = wire.call_metadata(request_id, self._sticky_key)
        waiting: deque[tuple[int, Any, Asked[T]]] = deque()
        number = 0
        try:
            async for batch in _asynchronous(batches):
                start = time.monotonic() if began is None else began
                is_part = began is not None
                rows, revision = await self._batch(number, batch, limit, request_id, is_part)
                question = wire.pinned(ask(rows), revision)
                left = wire.left_of(limit, start)
                call = question.method(question.request, timeout=left, metadata=metadata)
                waiting.append((number, call, question))
                number += 1
                while waiting and (len(waiting) == room or waiting[0][1].done()):
                    yield await self._result(*waiting.popleft(), limit)
            while waiting:
                yield await self._result(*waiting.popleft(), limit)
        finally:
            for _, call, _ in waiting:
                call.cancel()

    async def _batch(
        self, number: int, values: ArrayLike, limit: float, request_id: str | None, is_part: bool
    ) -> tuple[Rows, int]:
        """The rows of a batch, and the revision that has their columns in that order; 0 for any."""
        try:
            if is_part:
                return wire.as_rows(values), 0
            rows, _, revision = await self._prepared(values, limit, request_id, whole=True)
            return rows, revision
        except TrilliumError as error:
            raise wire.of_batch(error, number) from error.__cause__

    async def _prepared(
        self, values: ArrayLike, limit: float, request_id: str | None, *, whole: bool = False
    ) -> tuple[Rows, int, int]:
        """The rows with their columns as the model has them, how many fit into one call, and the
        revision that has the columns in that order, 0 for rows without names.

        The names are asked for each time, as the next revision may have others.
        """
        rows = wire.as_rows(values)
        has_names = bool(names_of(values))
        if not has_names and (whole or wire.is_small(rows)):
            return rows, len(rows), 0
        known = self._known
        if known is None or has_names:
            request = pb.GetMetadataRequest(ensemble=self._ensemble, revision=self._revision)
            method = self._channel.stubs().aggregator.GetMetadata
            known = wire.metadata(await self._ask(method, request, limit, request_id))
            self._known = known
        rows, most = wire.prepared(values, rows, known)
        return rows, most, known.revision if has_names else 0

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else wire.time_limit(timeout_s)

    async def _ask(
        self,
        method: Any,
        request: Any,
        timeout_s: float | None,
        request_id: str | None = None,
        began: float | None = None,
    ) -> Any:
        """The answer to a call, whose time limit began at a monotonic time, or begins now."""
        limit = self._limit(timeout_s)
        left = limit if began is None else wire.left_of(limit, began)
        try:
            return await method(
                request, timeout=left, metadata=wire.call_metadata(request_id, self._sticky_key)
            )
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, limit) from failure

    async def _result(self, number: int, call: Any, question: Asked[T], limit: float) -> T:
        # Taken out of the window already, so a cancelled wait withdraws it by itself.
        try:
            return question.read(await call)
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
