"""Rows that were in flight, alone, when a predictor died or hung.

Rows that were in flight at two deaths are refused for a while, so that they do not take down one
predictor after the other; then they are let through, by themselves, to see whether they still do.
Bounded, and forgotten as soon as a predictor has scored them. Knows no network.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from trillium.clock import Clock
from trillium.rows import Block

from .ticket import Part

MOST = 1024
"""Rows that are remembered; the oldest suspicion is forgotten first."""
FIRST_S, LONGEST_S = 5.0, 600.0
"""How long rows are refused, doubled each time that they take down another predictor."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What rows are suspected of."""

    digest: str
    """SHA-256 of the packed rows, in hexadecimal digits."""
    deaths: int
    refused_s: float
    """How long they are refused from now on; not positive once they are let through again."""


class Suspects:
    """The suspected rows of every class."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deaths: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        """By class and digest: the number of predictors, and until when the rows are refused."""

    def find(self, class_label: str, block: Block) -> Suspicion | None:
        """What these rows are suspected of; None, at no cost, while nothing is suspected."""
        if not self._deaths:
            return None
        key = _key(class_label, block)
        if key not in self._deaths:
            return None
        deaths, until = self._deaths[key]
        return Suspicion(key[1], deaths, until - self._clock.monotonic())

    def blame(self, part: Part) -> None:
        """A predictor died while it had this part alone. From the second death on, the part is
        not sent again."""
        key = _key(part.class_label, part.ticket.block)
        # One that has been sent again was in flight at another death, maybe with others.
        was_in_flight = part.alone and part.retried
        deaths = self._deaths.pop(key, (int(was_in_flight), 0.0))[0] + 1
        refused_s = 0.0
        if deaths > 1:
            part.retried = True
            refused_s = min(LONGEST_S, FIRST_S * 2.0 ** min(deaths - 2, 32))
        self._deaths[key] = deaths, self._clock.monotonic() + refused_s
        while len(self._deaths) > MOST:
            self._deaths.popitem(last=False)

    def acquit(self, part: Part) -> None:
        """A predictor has answered this part."""
        if self._deaths:
            self._deaths.pop(_key(part.class_label, part.ticket.block), None)


def _key(class_label: str, block: Block) -> tuple[str, str]:
    return class_label, hashlib.sha256(block.data).hexdigest()
