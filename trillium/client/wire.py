"""Between numpy and messages: what both clients share. No function here does any I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from numpy.typing import ArrayLike, NDArray

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.client.answers import (
    Classifications,
    EnsembleSummary,
    Metadata,
    Predictions,
    PredictorState,
    PredictorStatus,
    SampleScore,
)
from trillium.errors import (
    Cancelled,
    ClassFailure,
    Code,
    DeadlineExceeded,
    RemoteError,
    TrilliumError,
    Unreachable,
)
from trillium.rows import WIRE_DTYPE, Rows, check_finite
from trillium.rpc.call import LONGEST_STICKY_KEY, REQUEST_ID_KEY, STICKY_KEY
from trillium.rpc.channels import proxy_variable
from trillium.rpc.status import DETAILS_KEY, class_failure, code_of, from_status
from trillium.tables.columns import are_numbered, exact_places, names_of
from trillium.tables.frames import as_numbers
from trillium.tensor.v1 import tensor_pb2

CallMetadata: TypeAlias = tuple[tuple[str, str], ...]

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0
LEAST_TIMEOUT_S = 0.001
"""What is left for a call after another one that it waited for: enough to fail by its deadline."""
DEFAULT_IN_FLIGHT = 8
"""Requests of a stream that are under way at once: enough to keep a server busy."""
_SMALL_ROWS = 1000
_SMALL_BYTES = 2**20
_MOST_ROWS = 8192
"""In a part of a larger matrix: enough to keep a server busy, and small enough to be fair."""
_ENVELOPE_BYTES = 4096
"""Room in a message for all but the rows."""

# grpcio-health-checking is for servers. The messages of Check have one field each, on the wire the
# same as in these well-known types: 1: string service, and 1: enum status.
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_TYPES = (wrappers_pb2.StringValue.SerializeToString, wrappers_pb2.Int32Value.FromString)
_SERVING = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """A call, and how its answer is read."""

    method: Any
    request: Any
    read: Callable[[Any], T]


_STATES = {
    pb.PREDICTOR_STATE_CONNECTING: PredictorState.CONNECTING,
    pb.PREDICTOR_STATE_READY: PredictorState.READY,
    pb.PREDICTOR_STATE_UNAVAILABLE: PredictorState.UNAVAILABLE,
    pb.PREDICTOR_STATE_MISMATCHED: PredictorState.MISMATCHED,
}


def as_rows(values: ArrayLike) -> Rows:
    """Anything that numpy can read as a matrix of numbers, as rows; one row may come flat.

    Decimals, truth values and nullable integers are numbers, a missing value is NaN, and a sparse
    matrix is unpacked. Values are rounded to float32. Raises TypeError for what are no real
    numbers and ValueError for another shape. The server checks that they are finite, or may be
    missing, and fit the model.
    """
    array = as_numbers(values)
    if array.ndim == 1 and array.size:
        array = array[np.newaxis]
    if array.ndim != 2:
        raise ValueError(f"rows must have shape [n, features], and these have {array.shape}")
    if not array.size:
        raise ValueError(f"there is nothing to score in rows of shape {array.shape}")
    # What is too large for float32 becomes infinite, and the server names its row and column.
    with np.errstate(over="ignore"):
        return array.astype(WIRE_DTYPE, copy=False)


def is_small(rows: Rows) -> bool:
    """Whether rows fit into one call of any server that has not been given unusual limits."""
    return len(rows) <= _SMALL_ROWS and rows.nbytes <= _SMALL_BYTES


def prepared(values: ArrayLike, rows: Rows, known: Metadata) -> tuple[Rows, int]:
    """`rows`, which `as_rows` made of `values`, with their columns in the order of the model's, and
    how many of them fit into one call.

    Raises ValueError as `by_name`, and InvalidRequest for rows of several calls that no server
    takes: it would count them from the first row of its part.
    """
    rows = by_name(values, rows, known.feature_names)
    most = rows_in_a_call(known, rows.shape[1])
    if len(rows) > most:
        check_finite(rows, "matrix.data", takes_missing=known.takes_missing)
    return rows, most


def rows_in_a_call(known: Metadata, column_count: int) -> int:
    """How many rows of that many columns a call may hold; at least 1."""
    by_bytes = (known.max_message_bytes - _ENVELOPE_BYTES) // (WIRE_DTYPE.itemsize * column_count)
    return max(1, min(known.max_row_count, by_bytes, _MOST_ROWS))


def parts(rows: Rows, most: int) -> list[Rows]:
    """The rows in their order, `most` in each part but the last."""
    return [rows[start : start + most] for start in range(0, len(rows), most)]


def joined_predictions(answers: Sequence[Predictions]) -> Predictions:
    """The answers for the parts of a matrix as one; raises RemoteError if they do not fit."""
    labels, missing = _common(answers)
    columns = [[each.class_labels.index(label) for label in labels] for each in answers]
    pairs = zip(answers, columns, strict=True)
    rows = [each.probabilities[:, chosen] for each, chosen in pairs]
    first = answers[0]
    return Predictions(
        first.ensemble, labels, np.concatenate(rows), missing, revision=first.revision
    )


def joined_classifications(answers: Sequence[Classifications]) -> Classifications:
    """The answers for the parts of a matrix as one; raises RemoteError if they do not fit."""
    labels, missing = _common(answers)
    included = []
    for each in answers:
        if each.class_probabilities is not None:
            chosen = [each.class_labels.index(label) for label in labels]
            included.append(each.class_probabilities[:, chosen])
    return Classifications(
        ensemble=answers[0].ensemble,
        labels=np.concatenate([each.labels for each in answers]),
        probabilities=np.concatenate([each.probabilities for each in answers]),
        class_labels=labels,
        class_probabilities=np.concatenate(included) if included else None,
        missing=missing,
        revision=answers[0].revision,
    )


def pinned(question: Asked[T], revision: int) -> Asked[T]:
    """The same question for that revision; 0 leaves it as it is. Columns that were put in the order
    of a revision, and all parts of one matrix, are answered by the same one."""
    if revision:
        question.request.revision = revision
    return question


def _common(
    answers: Sequence[Predictions] | Sequence[Classifications],
) -> tuple[tuple[str, ...], tuple[ClassFailure, ...]]:
    """The classes that answered every part, and the failures of the others."""
    missing = {failure.class_label: failure for each in answers for failure in each.missing}
    answered = {tuple(sorted({*each.class_labels} - missing.keys())) for each in answers}
    if len(answered) != 1:
        text = "the classes of the ensemble changed between two parts of the rows; send them again"
        raise RemoteError(Code.ABORTED, "", text)
    common = (label for label in answers[0].class_labels if label not in missing)
    return tuple(common), tuple(missing.values())


def by_name(values: ArrayLike, rows: Rows, feature_names: Sequence[str]) -> Rows:
    """`rows`, which `as_rows` made of `values`, with their columns in the order of the model's.

    They stay as they stand if either side has no names. Raises ValueError, which names the columns
    that the model lacks, or that are missing or stand more than once.
    """
    names = names_of(values)
    if not names or not feature_names:
        return rows
    if are_numbered(names) and set(names).isdisjoint(feature_names):
        return rows
    if len(names) != rows.shape[1]:
        raise ValueError(
            f"rows must have a name for each of {rows.shape[1]} columns, got {len(names)}"
        )
    try:
        order = exact_places(names, feature_names)
    except ValueError as error:
        raise ValueError(
            f"{error}; select or rename the columns, or pass an array without names to have them "
            "taken as they stand"
        ) from error
    return rows if order == list(range(len(names))) else rows[:, order]


def _matrix(values: ArrayLike) -> tensor_pb2.Float32Matrix:
    rows = as_rows(values)
    row_count, column_count = rows.shape
    return tensor_pb2.Float32Matrix(
        row_count=row_count, column_count=column_count, data=rows.tobytes()
    )


def _array(matrix: tensor_pb2.Float32Matrix) -> NDArray[np.float32]:
    """A matrix's values in an array of their own, so that the caller may write to it."""
    flat = np.frombuffer(matrix.data, WIRE_DTYPE).astype(np.float32)
    return flat.reshape(matrix.row_count, matrix.column_count)


def predict_request(
    rows: ArrayLike,
    class_labels: Sequence[str],
    allow_partial: bool,
    ensemble: str = "",
    revision: int = 0,
) -> pb.PredictRequest:
    """The request for the probabilities of `rows`; no `class_labels` means all classes."""
    if isinstance(class_labels, str):
        raise TypeError(f"class_labels must be a list of labels, not the text {class_labels!r}")
    return pb.PredictRequest(
        matrix=_matrix(rows),
        ensemble=ensemble,
        class_labels=class_labels,
        allow_partial=allow_partial,
        revision=revision,
    )


def predictions(response: pb.PredictResponse) -> Predictions:
    """The answer to a `predict_request`."""
    return Predictions(
        ensemble=response.ensemble,
        class_labels=tuple(response.class_labels),
        probabilities=_array(response.probabilities),
        missing=tuple(class_failure(each) for each in response.missing),
        revision=response.revision,
    )


def classify_request(
    rows: ArrayLike,
    allow_partial: bool,
    include_probabilities: bool,
    ensemble: str = "",
    revision: int = 0,
) -> pb.ClassifyRequest:
    """The request for the labels of `rows`."""
    return pb.ClassifyRequest(
        matrix=_matrix(rows),
        ensemble=ensemble,
        allow_partial=allow_partial,
        include_probabilities=include_probabilities,
        revision=revision,
    )


def classifications(response: pb.ClassifyResponse) -> Classifications:
    """The answer to a `classify_request`."""
    packed = response.packed
    # The None at the end is where index -1, undecided, finds itself.
    labels = np.array([*response.class_labels, None], dtype=object)
    included = packed.HasField("probabilities")
    return Classifications(
        ensemble=response.ensemble,
        labels=labels[np.array(packed.label_indexes, dtype=np.intp)],
        probabilities=np.array(packed.label_probabilities, dtype=np.float32),
        class_labels=tuple(response.class_labels),
        class_probabilities=_array(packed.probabilities) if included else None,
        missing=tuple(class_failure(each) for each in response.missing),
        revision=response.revision,
    )


def sample_score(response: pb.PredictSampleResponse) -> SampleScore:
    """The sample row and its score."""
    return SampleScore(
        features=np.array(response.features, dtype=np.float32),
        class_labels=tuple(response.class_labels),
        probabilities=np.array(response.probabilities, dtype=np.float32),
        label=response.label,
        revision=response.revision,
    )


def metadata(response: pb.GetMetadataResponse) -> Metadata:
    """What the ensemble expects and answers."""
    return Metadata(
        ensemble=response.ensemble,
        class_labels=tuple(response.class_labels),
        feature_names=tuple(response.feature_names),
        feature_count=response.feature_count,
        dtype=response.dtype,
        input_shape=tuple(response.input_shape),
        output_shape=tuple(response.output_shape),
        # The shortest decimals that mean these float32 values: 5.1, not 5.0999999.
        sample=tuple(float(str(np.float32(value))) for value in response.sample),
        max_row_count=response.max_row_count,
        max_message_bytes=response.max_message_bytes,
        default_timeout_s=response.default_timeout.ToNanoseconds() / 1e9,
        takes_missing=response.takes_missing,
        revision=response.revision,
    )


def predictor_statuses(response: pb.ListPredictorsResponse) -> tuple[PredictorStatus, ...]:
    """Every predictor that the aggregator knows, in its order."""
    return tuple(
        PredictorStatus(
            class_label=each.class_label,
            address=each.address,
            state=_STATES.get(each.state, PredictorState.UNKNOWN),
            model_digest=each.model_digest,
            since=each.state_time.ToDatetime(UTC),
            detail=each.detail,
            ensemble=each.ensemble,
            revision=each.revision,
        )
        for each in response.predictors
    )


def ensemble_statuses(response: pb.ListEnsemblesResponse) -> tuple[EnsembleSummary, ...]:
    """The ensembles that an aggregator serves."""
    return tuple(
        EnsembleSummary(
            each.name,
            tuple(each.class_labels),
            each.ready,
            {revision.revision: revision.percent for revision in each.revisions},
        )
        for each in response.ensembles
    )


def health_request(service: str) -> wrappers_pb2.StringValue:
    """The request for a service's health; "" stands for the server as a whole."""
    return wrappers_pb2.StringValue(value=service)


def is_serving(response: wrappers_pb2.Int32Value) -> bool:
    """Whether the answer to a `health_request` is SERVING."""
    return response.value == _SERVING


def call_metadata(request_id: str | None, sticky_key: str = "") -> CallMetadata:
    """The metadata of a call; raises ValueError for an id that cannot travel in it."""
    sticky = ((STICKY_KEY, sticky_key),) if sticky_key else ()
    if request_id is None:
        return sticky
    if not (request_id and request_id.isascii() and request_id.isprintable()):
        raise ValueError(f"request_id {request_id!r} must be printable ASCII and not empty")
    return ((REQUEST_ID_KEY, request_id), *sticky)


def checked_sticky_key(text: str) -> str:
    """A sticky key; raises ValueError for one that cannot travel in a call's metadata."""
    if text and not (text.isascii() and text.isprintable() and len(text) <= LONGEST_STICKY_KEY):
        most = f"at most {LONGEST_STICKY_KEY} characters of printable ASCII"
        raise ValueError(f"sticky_key {text[:80]!r} must have {most}")
    return text


def time_limit(timeout_s: float) -> float:
    """`timeout_s` if it is a time that a call may take; raises ValueError."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")
    return timeout_s


def left_of(limit_s: float, began: float) -> float:
    """What is left of a time limit that began at a monotonic time."""
    return max(min(LEAST_TIMEOUT_S, limit_s), limit_s - (time.monotonic() - began))


def window(max_in_flight: int) -> int:
    """`max_in_flight` if it leaves room for a request; raises ValueError."""
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
    return max_in_flight


def error_of(failure: Any, address: str, timeout_s: float) -> TrilliumError:
    """The error that a failed call or grpc.RpcError stands for, as the server raised it.

    Without a google.rpc.Status the answer is not from a Trillium handler: it is gRPC's own, or
    another server's.
    """
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    code = code_of(failure.code().value[0])
    details = failure.details() or ""
    if code is Code.UNAVAILABLE:
        variable = proxy_variable(address)
        way = f" (asked through the proxy that {variable} names)" if variable else ""
        return Unreachable(f"no answer from {address}{way}: {_cause(details)}")
    if code is Code.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {address} within {timeout_s:g} s")
    if code is Code.CANCELLED:
        return Cancelled(f"the call to {address} was withdrawn: {details}")
    return RemoteError(code, "", f"{address} answered {code.name}: {details}")


def _cause(details: str) -> str:
    """The reason in gRPC's text on a failed connection, without the path that precedes it."""
    for way in ("last error: ", "Failed to connect to remote host: "):
        details = details.rpartition(way)[2]
    return details


def of_batch(error: TrilliumError, number: int) -> TrilliumError:
    """`error` with a note that names the batch of a stream."""
    error.add_note(f"in batch {number}, counted from 0")
    return error


def not_pickled(client: object) -> TypeError:
    """Why a client does not travel to another process."""
    name = type(client).__name__
    text = f"{name} holds a connection, which cannot be pickled: pass its address, and make"
    return TypeError(f"{text} a {name} where it is used")
