"""What the errors of MongoDB and its driver mean for a store, without the URI's secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote

from bson.errors import BSONError, InvalidDocument
from pymongo.errors import (
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from .port import StoreError, StoreUnavailable, TooLarge

FOREIGN = (PyMongoError, BSONError)
"""Everything that a call of the driver raises on purpose."""

NO_CHANGE_STREAMS = 40573
"""The server is a standalone."""

_UNAUTHORIZED = {13, 18, 8000}
_PASSING = {
    6,  # HostUnreachable
    7,  # HostNotFound
    24,  # LockTimeout
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed
    89,  # NetworkTimeout
    91,  # ShutdownInProgress
    100,  # UnsatisfiableWriteConcern
    112,  # WriteConflict
    134,  # ReadConcernMajorityNotAvailableYet
    189,  # PrimarySteppedDown
    202,  # NetworkInterfaceExceededTimeLimit
    262,  # ExceededTimeLimit
    9001,  # SocketException
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11601,  # Interrupted
    11602,  # InterruptedDueToReplStateChange
    13435,  # NotPrimaryNoSecondaryOk
    13436,  # NotPrimaryOrSecondary
    14031,  # OutOfDiskSpace
}
_TOO_LARGE = {10334, 17280, 17419}
_REFUSED_BY_VALIDATOR = 121


class Sentences:
    """Turns foreign errors into the port's, for one URI."""

    def __init__(self, uri: str) -> None:
        rest = uri.partition("://")[2]
        login, _, place = rest.rpartition("@")
        self._place = re.split("[/?]", place)[0] or "the given address"
        words = re.split("[:@/,?&=]", rest)
        self._words = {word for each in words for word in (each, unquote(each)) if word}
        self._login = {unquote(word) for word in login.split(":")} | set(login.split(":"))

    def of_uri(self, error: Exception) -> StoreError:
        """For an error of making the client. The message may quote any part of the URI, the
        password too when a `:` or `@` is misplaced; if it does, it is left out."""
        text = str(error)
        if any(word in text for word in self._words):
            text = "check hosts and options, and percent-encode : / ? # @ in user and password"
        return StoreError(f"the MongoDB URI cannot be used: {text}")

    def of(self, error: Exception) -> StoreError:
        """For an error of a call."""
        text = self._without_login(str(error))
        if isinstance(error, DocumentTooLarge) or _code(error) in _TOO_LARGE:
            return TooLarge(f"MongoDB does not take so large a document: {text}")
        if _code(error) in _UNAUTHORIZED:
            return StoreUnavailable(
                f"MongoDB at {self._place} refuses the user: check name, password, authSource and "
                "roles (readWrite on the database is needed)"
            )
        if isinstance(error, InvalidOperation):
            return StoreUnavailable("the store is closed")
        if is_passing(error):
            return StoreUnavailable(f"MongoDB at {self._place} cannot do it now: {text}")
        if _code(error) == _REFUSED_BY_VALIDATOR:
            return StoreError(f"the validator of the collection refuses the document: {text}")
        if isinstance(error, InvalidDocument):
            return StoreError(f"the document is no BSON: {text}")
        return StoreError(f"MongoDB at {self._place} refuses: {text}")

    def of_timeout(self, timeout_s: float) -> StoreUnavailable:
        """For a call that took too long."""
        return StoreUnavailable(f"MongoDB at {self._place} did not answer within {timeout_s:g} s")

    def _without_login(self, text: str) -> str:
        for word in sorted(self._login, key=len, reverse=True):
            # A word this short may be part of any other; the driver never shows a password anyway.
            if len(word) > 3:
                text = text.replace(word, "***")
        return text


def is_passing(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    kinds = (ConnectionFailure, ExecutionTimeout, WriteConcernError)
    return isinstance(error, kinds) or _code(error) in _PASSING


def may_have_happened(error: Exception) -> bool:
    """Whether a write that ended so may have been done, or may yet be done."""
    never_sent = (ServerSelectionTimeoutError, WaitQueueTimeoutError)
    return is_passing(error) and not isinstance(error, never_sent)


def _code(error: Exception) -> int | None:
    return error.code if isinstance(error, OperationFailure) else None
