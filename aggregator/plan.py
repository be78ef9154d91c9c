"""What a request is asked of, from its admission to its end: one revision of an ensemble.

A request takes a plan when it is admitted and keeps it, so no answer mixes two revisions. The
classes of a plan never change, but that those of an ensemble without revisions become known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from trillium.clock import Clock
from trillium.errors import NoMetadata, PredictorsFailed
from trillium.rows import Block
from trillium.rpc.call import Call
from trillium.server.statistics import Statistics

from .combine import Scores, combine
from .figures import PlanFigures
from .lanes.fanout import FAREWELL_S, Fanout
from .lanes.lane import Lane
from .plans.agreement import EnsembleMetadata
from .plans.roster import Endpoint, Roster

RESERVE_SHARE = 0.05
RESERVE_MOST_S = 0.05
"""Of the caller's time so much is kept, so that the answer that names who was late arrives."""
ROUNDING_SHARE = 0.01
"""By so much at most gRPC rounds a call's time up on its way here."""


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """What one request may ask."""

    max_rows: int
    max_message_bytes: int
    default_timeout_s: float


class ServingPlan:
    """Asks the predictors of one revision."""

    def __init__(
        self,
        roster: Roster,
        fanout: Fanout,
        *,
        clock: Clock,
        limits: ServingLimits,
        revision: int = 0,
        statistics: dict[str, Statistics] | None = None,
    ) -> None:
        """`revision` is 0 for an ensemble without revisions. `statistics` are those of the
        ensemble, to which this adds."""
        self.revision = revision
        self.roster = roster
        self.limits = limits
        self._fanout = fanout
        self._clock = clock
        self._statistics: dict[str, Statistics] = {} if statistics is None else statistics
        self.figures = PlanFigures()
        self._asked = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def name(self) -> str:
        """The ensemble's name, as its models declare it; empty if that is not known."""
        known = self.roster.metadata
        return "" if known is None else known.ensemble

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the ways to its predictors up inside the context; leave it when no request is under
        way any more, or after a while."""
        async with self._fanout.running():
            try:
                yield
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await self._idle.wait()

    @property
    def lanes(self) -> Sequence[Lane]:
        """The queues of its classes."""
        return self._fanout.lanes

    @property
    def queued_rows(self) -> dict[str, int]:
        """Rows that wait, by class."""
        return self._fanout.queued_rows

    async def follow(self, places: Mapping[Endpoint, int]) -> None:
        """Use these predictors from now on, each with the position of its class; returns when none
        of the others is asked any more, or has been given up."""
        self.roster.set_watched(places)
        await self._fanout.follow_roster()

    @property
    def class_labels(self) -> tuple[str, ...]:
        """All classes in metadata order."""
        return self.roster.class_labels

    @property
    def metadata(self) -> EnsembleMetadata:
        """What it expects; raises NoMetadata while no predictor was ever reached."""
        if self.roster.metadata is None:
            raise self._no_metadata()
        return self.roster.metadata

    def _no_metadata(self) -> NoMetadata:
        details = "; ".join(
            f"{entry.endpoint.class_label} at {entry.endpoint.address}: {entry.detail}"
            for entry in self.roster.entries
        )
        return NoMetadata(f"no predictor has been reached yet: {details}")

    def statistics(self, labels: Sequence[str]) -> Statistics:
        """What requests for these classes have done: for one class those that asked for it alone,
        for several those that asked for several."""
        alone = labels[0] if len(labels) == 1 and len(self.class_labels) > 1 else ""
        return self._statistics.setdefault(alone, Statistics())

    async def scores(
        self,
        block: Block,
        labels: Sequence[str],
        call: Call,
        timeout_s: float | None = None,
        *,
        partial: bool = False,
    ) -> Scores:
        """The probabilities of the classes `labels`.

        `timeout_s`, if given, applies in addition to the call's deadline. With `partial`, one
        class that answers is enough. Raises NoMetadata while not all classes are known,
        PredictorsFailed, Overloaded, DeadlineExceeded.
        """
        if not labels:
            raise NoMetadata("no class is known yet: the controller has published no predictor")
        if self.roster.follows and self.roster.metadata is None:
            # The controller publishes classes one by one; the first model lists all of them.
            raise self._no_metadata()
        deadline = self._deadline(call, timeout_s)
        with (
            self._under_way(),
            self.statistics(labels).asked(block.row_count, self._clock) as timing,
        ):
            outcomes = await self._fanout.ask(
                block,
                labels,
                deadline=deadline,
                wants_all=not partial,
                trace_id=call.request_id if call.traced else "",
                on_sent=timing.left_queue,
            )
            scores = combine(labels, outcomes)
            self.figures.failed(scores.failures)
            if scores.failures and not (partial and scores.class_labels):
                raise PredictorsFailed(scores.failures, was_run=timing.has_left)
            return scores

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._asked += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asked -= 1
            if not self._asked:
                self._idle.set()

    def _deadline(self, call: Call, timeout_s: float | None) -> float:
        """When the predictors must have answered, on the monotonic clock."""
        now = self._clock.monotonic()
        left_s = call.remaining_s(now) * (1 - ROUNDING_SHARE)
        asked_s = self.limits.default_timeout_s if timeout_s is None else timeout_s
        if timeout_s is None and left_s != float("inf"):
            asked_s = left_s
        left_s = min(left_s, asked_s)
        return now + left_s - min(RESERVE_MOST_S, RESERVE_SHARE * left_s)
