"""Whether predictors that have nothing to do but to answer do so: asked calmly, and counted.

The counts are this controller's alone, and nothing is lost with them: another one, or the next,
counts anew. A predictor is given up by `controller.lifecycle`, in writing, and only if it is silent
in that moment, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from trillium.clock import Clock

log = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, int]
"""A deployment's id and the index of one of its slots."""
SLACK_S = 2.0
"""How much later than it should this process may be at most to trust what it saw."""
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """How predictors are probed."""

    interval_s: float = 10.0
    """Pause between two probes of a predictor."""
    timeout_s: float = 5.0
    """How long an answer may take."""
    failures: int = 3
    """So many in a row, and the predictor is taken to hang."""


class Answering(Protocol):
    """Who asks predictors."""

    async def answers(self, address: str, timeout_s: float) -> bool:
        """Whether the server there answers a health check in time, whatever it says."""
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
    """Probes every predictor that it is told to follow."""

    def __init__(
        self,
        asking: Answering,
        clock: Clock,
        pace: Pace,
        on_silence: Callable[[Key], None] = lambda key: None,
    ) -> None:
        """`on_silence` is called whenever a predictor is found to hang, or to hang still."""
        self._asking = asking
        self._clock = clock
        self._pace = pace
        self._on_silence = on_silence
        self._probed: dict[Key, _Probed] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def follow(self, key: Key, container_id: str, address: str) -> None:
        """Probe the predictor of that container; another one's count begins anew."""
        known = self._probed.get(key)
        if known is None or (known.container_id, known.address) != (container_id, address):
            self._probed[key] = _Probed(container_id, address)

    def forget(self, key: Key) -> None:
        """Do not probe the slot's predictor any more."""
        self._probed.pop(key, None)

    def silent_since(self, key: Key) -> datetime | None:
        """When the first of enough probes in a row began that were not answered; None if there
        were too few, or if the last one is so long ago that this process must have stood still."""
        probed = self._probed.get(key)
        if probed is None or probed.failures < self._pace.failures:
            return None
        fresh_s = self._pace.interval_s + self._pace.timeout_s + SLACK_S
        if self._clock.monotonic() - probed.seen > fresh_s:
            return None
        return probed.silent_since

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            began = self._clock.monotonic()
            await asyncio.sleep(self._pace.interval_s)
            self._check_gap(began, self._pace.interval_s)
            await self.probe()

    async def probe(self) -> None:
        """Probe everything that is followed, once."""
        probes = (self._probe(key, probed) for key, probed in list(self._probed.items()))
        await asyncio.gather(*probes)

    async def _probe(self, key: Key, probed: _Probed) -> None:
        async with self._turns:
            began, now = self._clock.monotonic(), self._clock.now()
            if await self._asking.answers(probed.address, self._pace.timeout_s):
                probed.failures, probed.silent_since = 0, None
                return
            if self._check_gap(began, self._pace.timeout_s):
                return
        if not probed.failures:
            probed.silent_since = now
        probed.failures += 1
        probed.seen = self._clock.monotonic()
        if probed.failures >= self._pace.failures and self._probed.get(key) is probed:
            self._on_silence(key)

    def _check_gap(self, began: float, expected_s: float) -> bool:
        """Count anew if this process itself stood still since `began`: whoever did not answer
        meanwhile may well have done so. Tells whether it did."""
        late_s = self._clock.monotonic() - began - expected_s
        if late_s <= SLACK_S:
            return False
        log.info("probes are counted anew: this process stood still", extra={"seconds": late_s})
        for probed in self._probed.values():
            probed.failures, probed.silent_since = 0, None
        return True
