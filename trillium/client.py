"""The blocking client of an aggregator: numpy in, numpy out, typed errors.

It holds one connection, puts a deadline on every call, and raises the errors of `trillium.errors`:
what the server raised, or Unreachable, DeadlineExceeded, Cancelled or RemoteError for what happened
on the way. `trillium.async_client` has the same for asyncio.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from trillium.rpc.channels import sync_client_channel
from trillium.wire import DEFAULT_ADDRESS, DEFAULT_IN_FLIGHT, DEFAULT_TIMEOUT_S


class Client:
    """A blocking client. Safe to share between threads; `close` it, or use it in a `with`."""

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Nothing is sent yet: the connection is made by the first call, and again when it broke.

        `address` is `host:port` or `unix:/path`, else ValueError. `timeout_s` is the time in
        seconds that a call gets if it does not say otherwise.
        """
        self._address = checked_address(address)
        self._timeout_s = wire.time_limit(timeout_s)
        self._channel = sync_client_channel(address)
        self._stub: AggregatorServiceStub = AggregatorServiceStub(self._channel)
        self._check = self._channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with Cancelled."""
        self._channel.close()

    def predict(
        self,
        rows: ArrayLike,
        *,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Predictions:
        """Every class's probability of each row.

        Args:
            rows: shape [n, features], or one flat row: lists, an array, a DataFrame of numbers.
                The columns of a DataFrame are taken by the model's feature names, in any order,
                which asks for its metadata first; names that pandas did not make up must fit.
            class_labels: ask only these classes; empty means all.
            allow_partial: answer with the classes that there are when others fail.
            timeout_s: seconds that the call may take, instead of the client's own.
            request_id: follows the call through the logs of every server.

        Raises:
            TypeError, ValueError: the rows are no numbers or no matrix, or have columns of other
                names than the model; no row was sent.
            NoMetadata: a DataFrame came before the names are known.
            InvalidRequest: the ensemble cannot score them, with every violation found.
            PredictorsFailed: classes did not answer, with one failure for each.
            TrilliumError: anything else that `trillium.errors` lists.
        """
        rows, timeout_s = self._by_name(rows, timeout_s, request_id)
        request = wire.predict_request(rows, class_labels, allow_partial)
        return wire.predictions(self._ask(self._stub.Predict, request, timeout_s, request_id))

    def classify(
        self,
        rows: ArrayLike,
        *,
        allow_partial: bool = False,
        include_probabilities: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Classifications:
        """The most probable class of each row; ties go to the first in metadata order.

        Arguments and errors as for `predict`. With `allow_partial`, a row that a missing class
        could have won has the label None. `include_probabilities` also asks for every class's
        probability.
        """
        rows, timeout_s = self._by_name(rows, timeout_s, request_id)
        request = wire.classify_request(rows, allow_partial, include_probabilities)
        return wire.classifications(self._ask(self._stub.Classify, request, timeout_s, request_id))

    def predict_stream(
        self,
        batches: Iterable[ArrayLike],
        *,
        class_labels: Sequence[str] = (),
        allow_partial: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> Iterator[Predictions]:
        """`predict` for many batches of rows: one answer for each, in their order.

        Up to `max_in_flight` batches are under way at once; the next one is read from `batches`
        only when there is room, so both sides may be endless. Arguments and errors as for
        `predict`, `timeout_s` being for each batch. The error of a batch ends the iteration, has a
        note that says which batch it was, and withdraws the later ones.
        """
        # One call for each batch, not one stream: gRPC then watches over each one's deadline.
        limit, room = self._limit(timeout_s), wire.window(max_in_flight)
        metadata = wire.call_metadata(request_id)
        waiting: deque[tuple[int, Any]] = deque()
        try:
            for number, batch in enumerate(batches):
                rows, left = self._batch_by_name(number, batch, limit, request_id)
                request = wire.predict_request(rows, class_labels, allow_partial)
                call = self._stub.Predict.future(request, timeout=left, metadata=metadata)
                waiting.append((number, call))
                while waiting and (len(waiting) == room or waiting[0][1].done()):
                    yield self._result(*waiting.popleft(), limit)
            while waiting:
                yield self._result(*waiting.popleft(), limit)
        finally:
            for _, call in waiting:
                call.cancel()

    def predict_sample(self, *, timeout_s: float | None = None) -> SampleScore:
        """Score the sample row that the models carry. Raises NoSample if they carry none."""
        request = pb.PredictSampleRequest()
        return wire.sample_score(self._ask(self._stub.PredictSample, request, timeout_s))

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What the ensemble expects and answers. Raises NoMetadata before it is known."""
        request = pb.GetMetadataRequest()
        return wire.metadata(self._ask(self._stub.GetMetadata, request, timeout_s))

    def predictors(self, *, timeout_s: float | None = None) -> tuple[PredictorStatus, ...]:
        """Every predictor that the aggregator knows, in the order of the classes."""
        request = pb.ListPredictorsRequest()
        return wire.predictor_statuses(self._ask(self._stub.ListPredictors, request, timeout_s))

    def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server says that it, or one of its services, serves.

        False as well when no server answers. Raises RemoteError for a service that it lacks.
        """
        try:
            answer = self._ask(self._check, wire.health_request(service), timeout_s)
        except (Unreachable, DeadlineExceeded):
            return False
        return wire.is_serving(answer)

    def _by_name(
        self, rows: ArrayLike, timeout_s: float | None, request_id: str | None
    ) -> tuple[ArrayLike, float | None]:
        """The rows with their columns as the model has them, and the time that is left.

        The names are asked for each time, as the next version of a model may have others.
        """
        if not names_of(rows):
            return rows, timeout_s
        limit, matrix, began = self._limit(timeout_s), wire.as_rows(rows), time.monotonic()
        known = wire.metadata(
            self._ask(self._stub.GetMetadata, pb.GetMetadataRequest(), limit, request_id)
        )
        left_s = max(wire.LEAST_TIMEOUT_S, limit - (time.monotonic() - began))
        return wire.by_name(rows, matrix, known.feature_names), left_s

    def _batch_by_name(
        self, number: int, rows: ArrayLike, limit: float, request_id: str | None
    ) -> tuple[ArrayLike, float | None]:
        try:
            return self._by_name(rows, limit, request_id)
        except TrilliumError as error:
            raise wire.of_batch(error, number) from error.__cause__

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else wire.time_limit(timeout_s)

    def _ask(
        self, method: Any, request: Any, timeout_s: float | None, request_id: str | None = None
    ) -> Any:
        limit = self._limit(timeout_s)
        try:
            return method(request, timeout=limit, metadata=wire.call_metadata(request_id))
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, limit) from failure

    def _result(self, number: int, call: Any, limit: float) -> Predictions:
        try:
            return wire.predictions(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError) as failure:
            error = wire.error_of(call, self._address, limit)
            raise wire.of_batch(error, number) from failure
