"""What a handler may know of the call that it serves."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.rpc import status_pb2

from trillium.access.door import Credentials, Principal

REQUEST_ID_KEY = "x-request-id"
AUTHORIZATION_KEY = "authorization"
ANONYMOUS_KEY = "x-trillium-anonymous"
"""Metadata key: the caller wants to be anonymous, whoever it is."""
STICKY_KEY = "x-sticky-key"
"""Metadata key: calls with the same value get the same revision of an ensemble."""
LONGEST_STICKY_KEY = 256
_LONGEST_REQUEST_ID = 128
_process = os.urandom(4).hex()
_numbers = itertools.count(1)


@dataclass(slots=True)
class Call:
    """One call. Its cancellation arrives as the cancellation of the handler's task. Nothing of it
    changes once it was admitted."""

    method: str
    """Full path, such as `/trillium.predictor.v1.PredictorService/Predict`."""
    deadline: float
    """On the monotonic clock; infinite when the caller set none."""
    request_id: str
    """Follows the call through every service: the caller's own choice or one that we made up."""
    traced: bool = False
    """True when the caller chose the request id: its calls are logged everywhere."""
    peer: str = ""
    """Where the call came from, for the log."""
    sticky_key: str = ""
    """Calls with the same key get the same revision of an ensemble; empty for any."""
    credentials: Credentials = field(default=Credentials(""), repr=False)
    principal: Principal | None = None
    """Who asks, once the call was admitted."""

    def remaining_s(self, now: float) -> float:
        """Seconds left at `now`, never below 0; infinite without a deadline."""
        return self.deadline if math.isinf(self.deadline) else max(0.0, self.deadline - now)


def open_call(method: str, metadata: Mapping[str, str], deadline: float, peer: str) -> Call:
    """The call that a front has just received; a strange request id is replaced."""
    chosen = metadata.get(REQUEST_ID_KEY, "")
    sticky_key = metadata.get(STICKY_KEY, "")[:LONGEST_STICKY_KEY]
    credentials = Credentials(peer, metadata.get(AUTHORIZATION_KEY, ""), ANONYMOUS_KEY in metadata)
    if chosen and len(chosen) <= _LONGEST_REQUEST_ID and chosen.isprintable():
        return Call(method, deadline, chosen, True, peer, sticky_key, credentials)
    made = f"{_process}-{next(_numbers):x}"
    return Call(method, deadline, made, False, peer, sticky_key, credentials)


class CallFailed(Exception):
    """The end of a call with an error, in the form that every front can send."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status
