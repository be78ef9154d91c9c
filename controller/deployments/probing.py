"""Probes predictors that have nothing to do but to answer, and counts failures.

The counts are this controller's alone, and may be lost: another controller counts anew. `lifecycle`
gives a predictor up, in writing, and only if it is silent at that moment, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trillium.clock import Clock
from trillium.server.tasks import is_asked_to_end

from .document import Key

log = logging.getLogger(__name__)

SLACK_S = 2.0
"""If this process itself was later than planned by more than this, its probes count for nothing."""
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class ProbingPolicy:
    """How predictors are probed."""

    interval_s: float = 10.0
    """Pause between two probes of a predictor."""
    timeout_s: float = 5.0
    """Maximum time for an answer."""
    failures: int = 3
    """After this many in a row, the predictor counts as hung."""


class Answering(Protocol):
    """Asks predictors."""

    async def answers(self, address: str, timeout_s: float) -> bool:
        """Whether the server there answers a health check in time, whatever the answer."""
        ...


@dataclass(slots=True)
class _Probed:
    container_id: str
    address: str
    failures: int = 0
    silent_since: datetime | None = None
    seen: float = 0.0
    """When the last of the failures was seen, on the clock's monotonic time."""


class Probes:
    """Probes every predictor that it follows."""

    def __init__(
        self,
        asking: Answering,
        clock: Clock,
        policy: ProbingPolicy,
        on_silence: Callable[[Key], None] = lambda key: None,
    ) -> None:
        """`on_silence` is called after each probe by which a predictor counts as hung."""
        self._asking = asking
        self._clock = clock
        self._policy = policy
        self._on_silence = on_silence
        self._probed: dict[Key, _Probed] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def follow(self, key: Key, container_id: str, address: str) -> None:
        """Probe the predictor of that container; the count of another container starts again."""
        known = self._probed.get(key)
        if known is None or (known.container_id, known.address) != (container_id, address):
            self._probed[key] = _Probed(container_id, address)

    def forget(self, key: Key) -> None:
        """Do not probe the instance's predictor any more."""
        self._probed.pop(key, None)

    def silent_since(self, key: Key) -> datetime | None:
        """When the first of enough failed probes in a row began; None if there were too few, or if
        the last one is so old that this process must have stood still."""
        probed = self._probed.get(key)
        if probed is None or probed.failures < self._policy.failures:
            return None
        fresh_s = self._policy.interval_s + self._policy.timeout_s + SLACK_S
        if self._clock.monotonic() - probed.seen > fresh_s:
            return None
        return probed.silent_since

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            began = self._clock.monotonic()
            await asyncio.sleep(self._policy.interval_s)
            self._check_gap(began, self._policy.interval_s)
            await self.probe()

    async def probe(self) -> None:
        """Probe everything that is followed, once."""
        probes = (self._probe(key, probed) for key, probed in list(self._probed.items()))
        await asyncio.gather(*probes)

    async def _probe(self, key: Key, probed: _Probed) -> None:
        async with self._turns:
            began, now = self._clock.monotonic(), self._clock.now()
            try:
                has_answered = await self._asking.answers(probed.address, self._policy.timeout_s)
            except (Exception, asyncio.CancelledError):
                if is_asked_to_end():
                    raise
                # A defect here is no sign of the predictor, and must not end the other probes.
                log.exception("probe failed", extra={"address": probed.address})
                return
            if has_answered:
                probed.failures, probed.silent_since = 0, None
                return
            if self._check_gap(began, self._policy.timeout_s):
                return
        if not probed.failures:
            probed.silent_since = now
        probed.failures += 1
        probed.seen = self._clock.monotonic()
        if probed.failures >= self._policy.failures and self._probed.get(key) is probed:
            self._on_silence(key)

    def _check_gap(self, began: float, expected_s: float) -> bool:
        """Count anew if this process itself stood still since `began`: an answer may have come
        meanwhile. Returns whether it did."""
        late_s = self._clock.monotonic() - began - expected_s
        if late_s <= SLACK_S:
            return False
        log.info("probes are counted anew: this process stood still", extra={"seconds": late_s})
        for probed in self._probed.values():
            probed.failures, probed.silent_since = 0, None
        return True
