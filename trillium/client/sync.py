"""The blocking client of an aggregator: numpy in, numpy out, typed errors.

It holds one connection, puts a deadline on every call, and raises the errors of `trillium.errors`:
what the server raised, or Unreachable, DeadlineExceeded, Cancelled or RemoteError for what happened
on the way. `trillium.client.aio` has the same for asyncio.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from trillium.client.wire import (
    DEFAULT_ADDRESS,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT_S,
    Asked,
)
from trillium.errors import DeadlineExceeded, TrilliumError, Unreachable
from trillium.rows import Rows
from trillium.rpc.channels import sync_client_channel
from trillium.server.config import address as checked_address
from trillium.tables.columns import names_of

T = TypeVar("T")


class Client:
    """A blocking client. Safe to share between threads; `close` it, or use it in a `with`."""

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
        """Nothing is sent yet: the connection is made by the first call, and again when it broke.

        `address` is `host:port` or `unix:/path`, else ValueError. `ensemble` is the one to ask; it
        may be empty where the aggregator serves only one. `revision` is the one of its revisions to
        ask, if that is loaded; 0 means whichever serves. Where several share the requests, calls
        with the same `sticky_key` get the same one. `timeout_s` is the time in seconds that a call
        gets without a `timeout_s` of its own. `token` identifies the caller; without one, it is
        what the file has that the variable TRILLIUM_TOKEN_FILE names, if that is set. `tls_ca` is
        the file with the certificates of the authorities to trust, in PEM, or "system" for those
        that gRPC comes with: calls then go over TLS. Without it, it is what TRILLIUM_TLS_CA names;
        without both, calls go in plaintext. Raises ValueError for what cannot be used.
        """
        self._address = checked_address(address)
        self._ensemble = ensemble
        self._revision = revision
        self._sticky_key = wire.checked_sticky_key(sticky_key)
        self._timeout_s = wire.time_limit(timeout_s)
        self._channel = sync_client_channel(address, access_of(token, tls_ca))
        self._stub: AggregatorServiceStub = AggregatorServiceStub(self._channel)
        self._known: Metadata | None = None  # Limits, which a server keeps as long as it lives.
        self._check = self._channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise wire.not_pickled(self)

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
            rows: shape [n, features], or one flat row: lists, an array, a sparse matrix, a
                DataFrame of numbers. The columns of a DataFrame are taken by the model's feature
                names, in any order, which asks for its metadata first; names that pandas did not
                make up must fit. Rows that no call may hold at once are sent in several.
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
        ask = partial(self._predicting, class_labels, allow_partial)
        answers = self._in_parts(rows, ask, timeout_s, request_id)
        return answers[0] if len(answers) == 1 else wire.joined_predictions(answers)

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
        ask = partial(self._classifying, allow_partial, include_probabilities)
        answers = self._in_parts(rows, ask, timeout_s, request_id)
        return answers[0] if len(answers) == 1 else wire.joined_classifications(answers)

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
        note with the number of the batch, and withdraws the later ones.
        """
        ask = partial(self._predicting, class_labels, allow_partial)
        return self._stream(batches, ask, timeout_s, request_id, max_in_flight)

    def classify_stream(
        self,
        batches: Iterable[ArrayLike],
        *,
        allow_partial: bool = False,
        include_probabilities: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> Iterator[Classifications]:
        """`classify` for many batches of rows; see `predict_stream`."""
        ask = partial(self._classifying, allow_partial, include_probabilities)
        return self._stream(batches, ask, timeout_s, request_id, max_in_flight)

    def predict_sample(self, *, timeout_s: float | None = None) -> SampleScore:
        """Score the sample row that the models carry. Raises NoSample if they carry none."""
        request = pb.PredictSampleRequest(ensemble=self._ensemble, revision=self._revision)
        return wire.sample_score(self._ask(self._stub.PredictSample, request, timeout_s))

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """What the ensemble expects and answers. Raises NoMetadata before it is known."""
        request = pb.GetMetadataRequest(ensemble=self._ensemble, revision=self._revision)
        return wire.metadata(self._ask(self._stub.GetMetadata, request, timeout_s))

    def pin(self, *, timeout_s: float | None = None) -> Metadata:
        """Have all later calls answered by the revision that serves now, for as long as that is
        loaded; returns its metadata. Raises NoMetadata before it is known."""
        known = self.metadata(timeout_s=timeout_s)
        self._revision = known.revision
        return known

    def ensembles(self, *, timeout_s: float | None = None) -> tuple[EnsembleSummary, ...]:
        """Every ensemble that the aggregator serves, in the order of their names."""
        request = pb.ListEnsemblesRequest()
        return wire.ensemble_statuses(self._ask(self._stub.ListEnsembles, request, timeout_s))

    def predictors(self, *, timeout_s: float | None = None) -> tuple[PredictorStatus, ...]:
        """Every predictor that the aggregator knows, in the order of the classes; those of all
        ensembles, unless the client was made for one."""
        request = pb.ListPredictorsRequest(ensemble=self._ensemble)
        return wire.predictor_statuses(self._ask(self._stub.ListPredictors, request, timeout_s))

    def is_serving(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its services, reports SERVING.

        False as well when there is no answer. Raises RemoteError for an unknown service.
        """
        try:
            answer = self._ask(self._check, wire.health_request(service), timeout_s)
        except (Unreachable, DeadlineExceeded):
            return False
        return wire.is_serving(answer)

    def _predicting(
        self, class_labels: Sequence[str], allow_partial: bool, rows: Rows
    ) -> Asked[Predictions]:
        request = wire.predict_request(
            rows, class_labels, allow_partial, self._ensemble, self._revision
        )
        return Asked(self._stub.Predict, request, wire.predictions)

    def _classifying(
        self, allow_partial: bool, include_probabilities: bool, rows: Rows
    ) -> Asked[Classifications]:
        request = wire.classify_request(
            rows, allow_partial, include_probabilities, self._ensemble, self._revision
        )
        return Asked(self._stub.Classify, request, wire.classifications)

    def _in_parts(
        self,
        values: ArrayLike,
        ask: Callable[[Rows], Asked[T]],
        timeout_s: float | None,
        request_id: str | None,
    ) -> Sequence[T]:
        """The answers for rows of any number, in as many calls as the server's limits demand."""
        limit, began = self._limit(timeout_s), time.monotonic()
        rows, most, revision = self._prepared(values, limit, request_id)
        if len(rows) <= most:
            question = wire.pinned(ask(rows), revision)
            answer = self._ask(question.method, question.request, limit, request_id, began)
            return [question.read(answer)]
        pieces = wire.parts(rows, most)
        question = wire.pinned(ask(pieces[0]), revision)
        answer = self._ask(question.method, question.request, limit, request_id, began)

        def same(rows: Rows) -> Asked[T]:
            return wire.pinned(ask(rows), answer.revision)

        others = self._stream(pieces[1:], same, limit, request_id, began=began)
        return [question.read(answer), *others]

    def _stream(
        self,
        batches: Iterable[ArrayLike],
        ask: Callable[[Rows], Asked[T]],
        timeout_s: float | None,
        request_id: str | None,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        *,
        began: float | None = None,
    ) -> Iterator[T]:
        """An answer for each batch. With `began`, all together have the time limit from then on."""
        # One call for each batch, not one stream: gRPC then watches over each one's deadline.
        limit, room = self._limit(timeout_s), wire.window(max_in_flight)
        metadata = wire.call_metadata(request_id, self._sticky_key)
        waiting: deque[tuple[int, Any, Asked[T]]] = deque()
        try:
            for number, batch in enumerate(batches):
                start = time.monotonic() if began is None else began
                is_part = began is not None
                rows, revision = self._batch(number, batch, limit, request_id, is_part)
                question = wire.pinned(ask(rows), revision)
                left = wire.left_of(limit, start)
                call = question.method.future(question.request, timeout=left, metadata=metadata)
                waiting.append((number, call, question))
                while waiting and (len(waiting) == room or waiting[0][1].done()):
                    yield self._result(*waiting.popleft(), limit)
            while waiting:
                yield self._result(*waiting.popleft(), limit)
        finally:
            for _, call, _ in waiting:
                call.cancel()

    def _batch(
        self, number: int, values: ArrayLike, limit: float, request_id: str | None, is_part: bool
    ) -> tuple[Rows, int]:
        """The rows of a batch, and the revision that has their columns in that order; 0 for any."""
        try:
            if is_part:
                return wire.as_rows(values), 0
            rows, _, revision = self._prepared(values, limit, request_id, whole=True)
            return rows, revision
        except TrilliumError as error:
            raise wire.of_batch(error, number) from error.__cause__

    def _prepared(
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
            known = wire.metadata(self._ask(self._stub.GetMetadata, request, limit, request_id))
            self._known = known
        rows, most = wire.prepared(values, rows, known)
        return rows, most, known.revision if has_names else 0

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else wire.time_limit(timeout_s)

    def _ask(
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
            return method(
                request, timeout=left, metadata=wire.call_metadata(request_id, self._sticky_key)
            )
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, limit) from failure

    def _result(self, number: int, call: Any, question: Asked[T], limit: float) -> T:
        try:
            return question.read(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError) as failure:
            error = wire.error_of(call, self._address, limit)
            raise wire.of_batch(error, number) from failure
