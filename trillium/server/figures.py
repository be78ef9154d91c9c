"""What servers count, without a word on how it is published. Pure, and cheap: a distribution takes
half a microsecond to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Upper bounds of distributions of times."""
ROWS = tuple(4.0**power for power in range(8))
"""Upper bounds of distributions of rows: 1, 4, 16 and so on to 16384."""


class Distribution:
    """How many values were at most so large, for a few bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        """Upper bounds, included, in ascending order; what is larger is counted, too."""
        self.counts = [0] * (len(bounds) + 1)
        """Values up to each bound and above the one before; at last those above all."""
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """A value has come, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Distribution:
        """One that does not change when this one does."""
        other = Distribution(self.bounds)
        other.counts, other.total = list(self.counts), self.total
        return other


Value: TypeAlias = float | Distribution


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is counted or measured."""

    name: str
    """As Prometheus knows it: with its unit, and `_total` for counters."""
    kind: Literal["counter", "gauge", "histogram"]
    """A counter only grows; a gauge goes up and down; a histogram is a distribution."""
    help: str
    """The question that it answers."""
    labels: tuple[str, ...] = ()

    def of(self, samples: Mapping[tuple[str, ...], Value]) -> Family:
        """The measure with its values by the values of the labels."""
        return Family(self, samples)


@dataclass(frozen=True, slots=True)
class Family:
    """A measure and all its values at one moment."""

    measure: Measure
    samples: Mapping[tuple[str, ...], Value]
    """By the values of the measure's labels, in their order."""

    def copy(self) -> Family:
        """One that does not change while the original is counted on."""
        copied = {
            labels: value.copy() if isinstance(value, Distribution) else value
            for labels, value in self.samples.items()
        }
        return Family(self.measure, copied)


Source: TypeAlias = Callable[[], Iterable[Family]]
"""Returns what was counted so far; called in the event loop that counts."""
