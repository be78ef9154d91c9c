"""Trillium's errors as google.rpc.Status, and back."""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from trillium import errors
from trillium.aggregator.v1 import aggregator_service_pb2 as aggregator_pb2

DOMAIN = "trillium"
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key under which gRPC carries a google.rpc.Status."""

MAX_MESSAGE_BYTES = 1000
"""Longer messages are cut: callers take trailers of 8 KiB in all, where each message stands twice,
once with every byte that is not ASCII written as three."""

MOST_FAILURES = 16
"""At most this many failures are sent: trailers of more than 8 KiB are lost on the way."""

_PHASES = {
    errors.Phase.CONNECT: aggregator_pb2.FAILURE_PHASE_CONNECT,
    errors.Phase.QUEUE: aggregator_pb2.FAILURE_PHASE_QUEUE,
    errors.Phase.RUN: aggregator_pb2.FAILURE_PHASE_RUN,
}
_PHASES_BACK = {number: phase for phase, number in _PHASES.items()}


def duration(seconds: float) -> duration_pb2.Duration:
    """`seconds` as a Duration, to the nanosecond."""
    result = duration_pb2.Duration()
    result.FromNanoseconds(round(seconds * 1e9))
    return result


def missing_class(failure: errors.ClassFailure) -> aggregator_pb2.MissingClass:
    """A failure as a message."""
    return aggregator_pb2.MissingClass(
        class_label=failure.class_label,
        address=failure.address,
        phase=_PHASES[failure.phase],
        message=failure.message,
        elapsed=duration(failure.elapsed_s),
        timed_out=failure.timed_out,
        rejected=failure.rejected,
    )


def class_failure(missing: aggregator_pb2.MissingClass) -> errors.ClassFailure:
    """The failure in a message."""
    return errors.ClassFailure(
        class_label=missing.class_label,
        address=missing.address,
        phase=_PHASES_BACK.get(missing.phase, errors.Phase.RUN),
        message=missing.message,
        elapsed_s=missing.elapsed.ToNanoseconds() / 1e9,
        timed_out=missing.timed_out,
        rejected=missing.rejected,
    )


def to_status(error: errors.TrilliumError, request_id: str = "") -> status_pb2.Status:
    """The status that carries `error` and, if given, the id of the call that it ended."""
    status = status_pb2.Status(code=error.code, message=_short(error.message))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.facts)
    status.details.add().Pack(info)
    if request_id:
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    detail = _detail(error)
    if detail is not None:
        status.details.add().Pack(detail)
    return status


def _short(text: str) -> str:
    """`text`, cut if it is too long for a trailer."""
    raw = text.encode(errors="replace")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[:MAX_MESSAGE_BYTES].decode(errors="ignore") + " [...]"


def _detail(error: errors.TrilliumError) -> Any:
    match error:
        case errors.InvalidRequest():
            return error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        case errors.Overloaded():
            return error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after_s))
        case errors.PredictorsFailed():
            missing = [missing_class(failure) for failure in error.failures[:MOST_FAILURES]]
            return aggregator_pb2.FailedPredictors(missing=missing)
        case _:
            return None


_PLAIN: dict[str, type[errors.TrilliumError]] = {
    kind.reason: kind
    for kind in (
        errors.MalformedMessage,
        errors.ModelRejected,
        errors.DigestMismatch,
        errors.ModelNotFound,
        errors.ModelNotLoaded,
        errors.ModelBusy,
        errors.Overtaken,
        errors.ModelFailed,
        errors.NoSample,
        errors.NoMetadata,
        errors.DatasetNotFound,
        errors.DeploymentNotFound,
        errors.DeploymentExists,
        errors.EnsembleNotFound,
        errors.RevisionNotFound,
        errors.EnsembleFailed,
        errors.EnsembleChanged,
        errors.RunNotFound,
        errors.RunExists,
        errors.RequestIdReused,
        errors.IllegalStep,
        errors.InUse,
        errors.DeploymentFailed,
        errors.Superseded,
        errors.RecordUnreadable,
        errors.StoreDown,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.DeadlineExceeded,
        errors.Cancelled,
        errors.Draining,
        errors.Unsupported,
        errors.InternalError,
    )
}
"""The errors that are made of their message alone, by reason."""


def from_status(status: status_pb2.Status) -> errors.TrilliumError:
    """The error that `status` carries; RemoteError if it is none that Trillium knows."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.RequestInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    failed = aggregator_pb2.FailedPredictors()
    for detail in status.details:
        for message in (info, request, bad, retry, failed):
            if _unpacked(detail, message):
                break
    error: errors.TrilliumError
    reason = info.reason if info.domain == DOMAIN else ""
    if reason == errors.InvalidRequest.reason:
        fields = bad.field_violations
        violations = [errors.Violation(each.field, each.description) for each in fields]
        error = errors.InvalidRequest(violations, status.message)
    elif reason == errors.Overloaded.reason:
        delay_s = retry.retry_delay.ToNanoseconds() / 1e9
        error = errors.Overloaded(status.message, retry_after_s=delay_s)
    elif reason == errors.PredictorsFailed.reason:
        failures = [class_failure(missing) for missing in failed.missing]
        error = errors.PredictorsFailed(failures, status.message)
        error.code = code_of(status.code)
    elif reason in _PLAIN:
        error = _PLAIN[reason](status.message)
    else:
        error = errors.RemoteError(code_of(status.code), reason, status.message)
    error.request_id = request.request_id
    return error


def _unpacked(detail: Any, message: Message) -> bool:
    """Whether `detail` was of the type of `message`, and whole, and now is in it."""
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        return False


def code_of(number: int) -> errors.Code:
    """The code of that number; UNKNOWN for numbers that google.rpc.Code does not have."""
    try:
        return errors.Code(number)
    except ValueError:
        return errors.Code.UNKNOWN
