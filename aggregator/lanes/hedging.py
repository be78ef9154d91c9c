"""When a class sends a request that takes unusually long to a second predictor, too.

A predictor may be stopped, swapped out, or held up by other work on its machine, and nothing
distinguishes that from a slow run until it answers. Where another predictor of the class is free,
waiting longer than nearly all requests do is the sign. Bounded to a share of the requests, so that
a class that is slow as a whole is not asked twice (Dean and Barroso, "The Tail at Scale", 2013).
"""

from __future__ import annotations

import math
from collections import deque

LEAST_S = 0.01
"""No request is sent a second time before this; it is above what scheduling costs a quick model."""
FIRST_S = 1.0
"""The same while few batches have been seen."""
SEEN, ENOUGH = 128, 16
"""How many batches count for what is usual, and how many are needed for that."""
_QUANTILE = 0.95
_MOST_TOKENS = 64.0
"""How many requests may be sent a second time in a row after a quiet time."""


class Hedging:
    """What is usual for a class, and how many requests may still be sent a second time."""

    def __init__(self, share: float) -> None:
        """At most `share` of the requests (0 to 1; 0: none) are sent a second time."""
        self._share = share
        self._tokens = _MOST_TOKENS if share else 0.0
        self._took: deque[float] = deque(maxlen=SEEN)
        self._fresh = 0
        self._usual_s: float | None = None

    @property
    def after_s(self) -> float:
        """How long a batch is waited for before its requests are sent a second time."""
        if not self._share:
            return math.inf
        return FIRST_S if self._usual_s is None else max(LEAST_S, self._usual_s)

    def answered(self, took_s: float, requests: int) -> None:
        """A batch of `requests` requests was answered."""
        self._tokens = min(_MOST_TOKENS, self._tokens + self._share * requests)
        self._took.append(took_s)
        self._fresh += 1
        # Sorting costs more than the rest.
        if self._fresh >= ENOUGH:
            self._fresh = 0
            last = math.ceil(_QUANTILE * len(self._took)) - 1
            self._usual_s = sorted(self._took)[last]

    def allows(self, requests: int) -> bool:
        """Whether `requests` more may be sent a second time; if so, they are counted."""
        if self._tokens < requests:
            return False
        self._tokens -= requests
        return True
