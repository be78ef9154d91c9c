"""Every error that Trillium raises or answers, on servers and in the client alike.

    TrilliumError
    ├── InvalidRequest        INVALID_ARGUMENT     INVALID_REQUEST     one violation for each field
    ├── MalformedMessage      INVALID_ARGUMENT     MALFORMED_MESSAGE   no message of that type
    ├── ModelRejected         INVALID_ARGUMENT     MODEL_REJECTED      no usable binary classifier
    ├── DigestMismatch        INVALID_ARGUMENT     DIGEST_MISMATCH     the artifact came damaged
    ├── ModelNotFound         NOT_FOUND            MODEL_NOT_FOUND     none of that name
    ├── ModelNotLoaded        FAILED_PRECONDITION  MODEL_NOT_LOADED    nothing to ask yet
    ├── ModelBusy             ABORTED              MODEL_BUSY          a load or unload is under way
    ├── Overtaken             FAILED_PRECONDITION  OVERTAKEN           a later load or unload came
    ├── ModelFailed           INTERNAL             MODEL_FAILED        the model's run failed
    ├── NoSample              FAILED_PRECONDITION  NO_SAMPLE           the models carry no sample
    ├── NoMetadata            UNAVAILABLE          NO_METADATA         no predictor reached yet
    ├── PredictorsFailed      UNAVAILABLE,         PREDICTORS_FAILED   one failure for each class
    │                         DEADLINE_EXCEEDED or
    │                         INVALID_ARGUMENT (the rows cannot be scored)
    ├── DatasetNotFound       NOT_FOUND            DATASET_NOT_FOUND   no dataset of that name
    ├── DeploymentNotFound    NOT_FOUND            DEPLOYMENT_NOT_FOUND
    ├── DeploymentExists      ALREADY_EXISTS       DEPLOYMENT_EXISTS   with another spec
    ├── EnsembleNotFound      NOT_FOUND            ENSEMBLE_NOT_FOUND
    ├── RevisionNotFound      NOT_FOUND            REVISION_NOT_FOUND  never made, or not kept
    ├── EnsembleFailed        FAILED_PRECONDITION  ENSEMBLE_FAILED     a revision's predictor failed
    ├── EnsembleChanged       ABORTED              ENSEMBLE_CHANGED    since its etag was read
    ├── RunNotFound           NOT_FOUND            RUN_NOT_FOUND       none, or it has expired
    ├── RunExists             ALREADY_EXISTS       RUN_EXISTS          with another order
    ├── RequestIdReused       ALREADY_EXISTS       REQUEST_ID_REUSED   came with another request
    ├── IllegalStep           FAILED_PRECONDITION  ILLEGAL_STEP        lists the legal steps
    ├── InUse                 FAILED_PRECONDITION  IN_USE              names what uses it
    ├── DeploymentFailed      FAILED_PRECONDITION  DEPLOYMENT_FAILED   a predictor failed for good
    ├── Superseded            ABORTED              SUPERSEDED          another verb came later
    ├── RecordUnreadable      FAILED_PRECONDITION  RECORD_UNREADABLE   a person must look at it
    ├── StoreDown             UNAVAILABLE          STORE_UNAVAILABLE   the store does not answer
    ├── Overloaded            RESOURCE_EXHAUSTED   OVERLOADED          try again after a while
    ├── Unauthenticated       UNAUTHENTICATED      UNAUTHENTICATED     no proof of who asks
    ├── PermissionDenied      PERMISSION_DENIED    PERMISSION_DENIED   another role is needed
    ├── DeadlineExceeded      DEADLINE_EXCEEDED    DEADLINE_EXCEEDED   the time was up
    ├── Cancelled             CANCELLED            CANCELLED           the caller withdrew
    ├── Draining              UNAVAILABLE          DRAINING            the server is about to stop
    ├── Unsupported           UNIMPLEMENTED        UNSUPPORTED         not this server's to do
    ├── Unreachable           UNAVAILABLE          UNREACHABLE         no server answered (client)
    ├── RemoteError           any                  any                 an answer of another version
    └── InternalError         INTERNAL             INTERNAL_ERROR      a defect; the log has it

This module knows neither gRPC nor protobuf; `trillium.rpc.status` carries these over the wire and
back, so that the client raises what the server raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The canonical codes of google.rpc.Code that Trillium uses, with their numbers."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def quoted(name: str) -> str:
    """A name that a caller chose, in quotes and short: twenty of them must fit into trailers."""
    text = repr(name[:60])
    return text if len(text) <= 60 and text.isascii() else ascii(name[:60])[:60] + "..."


class TrilliumError(Exception):
    """Base of all. `str()` of it is a sentence for a person, safe to show to a caller."""

    code: Code = Code.INTERNAL
    reason: str = "INTERNAL_ERROR"
    request_id: str = ""
    """Id of the call that failed, where the error came over the wire."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def facts(self) -> Mapping[str, str]:
        """What a program may want to know, as it stands in the ErrorInfo's metadata."""
        return {}


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is wrong."""

    field: str
    """Path of the field as the caller wrote it, such as `instances[2].features[0]`."""
    description: str
    """What is wrong with its value, and what is allowed."""


class InvalidRequest(TrilliumError):
    """The request cannot be served as it is; every violation found is listed, up to a limit."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"
    SHOWN: ClassVar[int] = 3

    def __init__(self, violations: Sequence[Violation], message: str = "") -> None:
        self.violations = tuple(violations)
        sentences = [f"{each.field}: {each.description}" for each in self.violations[: self.SHOWN]]
        more = len(self.violations) - len(sentences)
        if more > 0:
            sentences.append(f"and {more} more")
        super().__init__(message or "; ".join(sentences))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """The error of a single violation."""
        return cls((Violation(field, description),))


class MalformedMessage(TrilliumError):
    """The bytes of a request are no message of the method's request type."""

    code = Code.INVALID_ARGUMENT
    reason = "MALFORMED_MESSAGE"


class ModelRejected(TrilliumError):
    """The artifact is not a binary classifier that a predictor can serve; the message has the
    reason."""

    code = Code.INVALID_ARGUMENT
    reason = "MODEL_REJECTED"


class DigestMismatch(TrilliumError):
    """The bytes of an artifact do not have the announced SHA-256."""

    code = Code.INVALID_ARGUMENT
    reason = "DIGEST_MISMATCH"


class ModelNotFound(TrilliumError):
    """There is no artifact of that name where the predictor looks, or no such model to ask."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class ModelNotLoaded(TrilliumError):
    """The predictor has no model to ask."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_NOT_LOADED"


class ModelBusy(TrilliumError):
    """A load or an unload is under way; try again when it is done."""

    code = Code.ABORTED
    reason = "MODEL_BUSY"


class Overtaken(TrilliumError):
    """A load or unload with a higher fence was carried out before this one came."""

    code = Code.FAILED_PRECONDITION
    reason = "OVERTAKEN"


class ModelFailed(TrilliumError):
    """The model could not be run on these rows, or answered no probabilities."""

    code = Code.INTERNAL
    reason = "MODEL_FAILED"


class NoSample(TrilliumError):
    """The models carry no sample row."""

    code = Code.FAILED_PRECONDITION
    reason = "NO_SAMPLE"


class NoMetadata(TrilliumError):
    """No predictor has been reached yet, so nothing is known of the ensemble."""

    code = Code.UNAVAILABLE
    reason = "NO_METADATA"


class DatasetNotFound(TrilliumError):
    """There is no dataset of that name and version in the catalog."""

    code = Code.NOT_FOUND
    reason = "DATASET_NOT_FOUND"


class DeploymentNotFound(TrilliumError):
    """There is no deployment of that id, and there was none lately."""

    code = Code.NOT_FOUND
    reason = "DEPLOYMENT_NOT_FOUND"


class DeploymentExists(TrilliumError):
    """There is a deployment of that id with another spec."""

    code = Code.ALREADY_EXISTS
    reason = "DEPLOYMENT_EXISTS"


class EnsembleNotFound(TrilliumError):
    """There is no ensemble of that id."""

    code = Code.NOT_FOUND
    reason = "ENSEMBLE_NOT_FOUND"


class RevisionNotFound(TrilliumError):
    """The ensemble has no revision of that number, or no longer; the message lists what it has."""

    code = Code.NOT_FOUND
    reason = "REVISION_NOT_FOUND"


class EnsembleFailed(TrilliumError):
    """The revision that was asked for cannot be prepared; what served before goes on."""

    code = Code.FAILED_PRECONDITION
    reason = "ENSEMBLE_FAILED"


class EnsembleChanged(TrilliumError):
    """The ensemble is not the one that was read; the message has what is desired now."""

    code = Code.ABORTED
    reason = "ENSEMBLE_CHANGED"


class RunNotFound(TrilliumError):
    """There is no run of that id, or it and its results have expired."""

    code = Code.NOT_FOUND
    reason = "RUN_NOT_FOUND"


class RunExists(TrilliumError):
    """There is a run of that id with another order."""

    code = Code.ALREADY_EXISTS
    reason = "RUN_EXISTS"


class RequestIdReused(TrilliumError):
    """The request id came with another request before."""

    code = Code.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class IllegalStep(TrilliumError):
    """The state of the deployment does not allow the verb; the message lists those it allows."""

    code = Code.FAILED_PRECONDITION
    reason = "ILLEGAL_STEP"


class InUse(TrilliumError):
    """What was to be deleted is used; the message names the users."""

    code = Code.FAILED_PRECONDITION
    reason = "IN_USE"


class DeploymentFailed(TrilliumError):
    """What was asked was not reached: a predictor failed for good."""

    code = Code.FAILED_PRECONDITION
    reason = "DEPLOYMENT_FAILED"


class Superseded(TrilliumError):
    """Another request changed the target state while this one waited."""

    code = Code.ABORTED
    reason = "SUPERSEDED"


class RecordUnreadable(TrilliumError):
    """The controller cannot read the record: it is damaged, or a newer version wrote it."""

    code = Code.FAILED_PRECONDITION
    reason = "RECORD_UNREADABLE"


class StoreDown(TrilliumError):
    """The controller's store does not answer; whether a change was made is not known."""

    code = Code.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class Overloaded(TrilliumError):
    """A queue is full. Nothing was done; trying again after `retry_after_s` is safe."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthenticated(TrilliumError):
    """The caller has not proved who it is, or its credential is none."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(TrilliumError):
    """The caller is known, and its role does not allow the call."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class DeadlineExceeded(TrilliumError):
    """The time that the caller gave was up before there was an answer."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(TrilliumError):
    """The caller withdrew the request."""

    code = Code.CANCELLED
    reason = "CANCELLED"


class Draining(TrilliumError):
    """The server finishes what it has and takes nothing new."""

    code = Code.UNAVAILABLE
    reason = "DRAINING"


class Unsupported(TrilliumError):
    """The protocol has this call, but this server does not serve it; the message names who does."""

    code = Code.UNIMPLEMENTED
    reason = "UNSUPPORTED"


class Unreachable(TrilliumError):
    """No server answered at the address; raised by the client."""

    code = Code.UNAVAILABLE
    reason = "UNREACHABLE"


class InternalError(TrilliumError):
    """A defect of the server. The caller gets this fixed text; the server's log has the rest."""

    code = Code.INTERNAL
    reason = "INTERNAL_ERROR"

    def __init__(self, message: str = "internal error; the server's log has the details") -> None:
        super().__init__(message)


class RemoteError(TrilliumError):
    """An error answer whose reason this version of Trillium does not know."""

    def __init__(self, code: Code, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Phase(Enum):
    """How far a class's part of a request got before it failed."""

    CONNECT = "connect"
    QUEUE = "queue"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class ClassFailure:
    """A class of an ensemble that did not answer a request, and why."""

    class_label: str
    address: str
    """The predictor that was asked or would have been; several are joined by commas."""
    phase: Phase
    message: str
    elapsed_s: float
    """Seconds from the arrival of the request to the failure."""
    timed_out: bool = False
    """Whether the request's time ran out, rather than that the predictor failed."""
    rejected: bool = False
    """Whether the rows are at fault, so that asking again fails again."""

    def __str__(self) -> str:
        spent = f"after {self.elapsed_s * 1000:.0f} ms"
        return f"{self.class_label} at {self.address}: {self.phase.value}: {self.message}, {spent}"


class PredictorsFailed(TrilliumError):
    """Classes did not answer, and the request did not allow a partial answer."""

    reason = "PREDICTORS_FAILED"
    SHOWN: ClassVar[int] = 3

    def __init__(
        self,
        failures: Sequence[ClassFailure],
        message: str | None = None,
        *,
        was_run: bool = False,
    ) -> None:
        self.failures = tuple(failures)
        self.was_run = was_run
        """Whether any predictor got the request; not sent over the wire."""
        self.code = Code.UNAVAILABLE
        if any(failure.rejected for failure in self.failures):
            self.code = Code.INVALID_ARGUMENT
        elif self.failures and all(failure.timed_out for failure in self.failures):
            self.code = Code.DEADLINE_EXCEEDED
        sentences = [str(failure) for failure in self.failures[: self.SHOWN]]
        more = len(self.failures) - len(sentences)
        if more > 0:
            sentences.append(f"and {more} more classes")
        super().__init__(message or "; ".join(sentences))

    @property
    def facts(self) -> Mapping[str, str]:
        """The first failure; all of them travel in a FailedPredictors."""
        if not self.failures:
            return {}
        first = self.failures[0]
        return {
            "class_label": first.class_label,
            "address": first.address,
            "phase": first.phase.value,
            "elapsed_ms": f"{first.elapsed_s * 1000:.0f}",
        }
