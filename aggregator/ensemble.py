"""An ensemble as requests ask it: the plans of its revisions, and which one a request gets."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from trillium.errors import NoMetadata, RevisionNotFound
from trillium.server.statistics import Statistics
from trillium.waking import Bell

from .plan import ServingLimits, ServingPlan
from .plans.published import PublishedPlan

SWITCH_S = 1.0
"""How long a switch waits at most until all predictors of what is to serve have been reached, while
what served before is still there."""


class Ensemble:
    """Its revisions, and the share of the requests that each gets."""

    def __init__(
        self,
        make: Callable[[Ensemble, PublishedPlan], ServingPlan],
        *,
        limits: ServingLimits,
        name: str = "",
        initial: Sequence[PublishedPlan] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`name` is the one that it is known by until a model declares it; `initial` is followed
        from the start. `on_change` is called after every change."""
        self._make = make
        self._known_as = name
        self._initial = tuple(initial)
        self._on_change = on_change
        self.limits = limits
        self._plans: dict[int, tuple[ServingPlan, AsyncExitStack]] = {}
        self._published: dict[int, PublishedPlan] = {}
        self._shares: tuple[tuple[int, int], ...] = ()
        """Revisions that get requests, and the percent of each; the highest first."""
        self._reached = Bell()
        self.statistics_of: dict[str, Statistics] = {}
        """What was asked of it since the aggregator started, by class and for all together."""

    @property
    def name(self) -> str:
        """Its name; empty if that is not known."""
        return self._known_as or next((plan.name for plan in self.plans if plan.name), "")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the ways to its predictors up inside the context."""
        try:
            await self.follow(self._initial)
            yield
        finally:
            await self._end(tuple(self._plans))

    @property
    def plans(self) -> tuple[ServingPlan, ...]:
        """The plans of all revisions that are loaded: that with most requests first."""
        shares = dict(self._shares)
        numbers = sorted(self._plans, key=lambda number: (-shares.get(number, 0), -number))
        return tuple(self._plans[number][0] for number in numbers)

    @property
    def shares(self) -> tuple[tuple[int, int], ...]:
        """Revisions that get requests, and the percent of each; the highest first."""
        return self._shares

    @property
    def current(self) -> ServingPlan:
        """The plan with most requests. Raises NoMetadata while no revision serves."""
        for number, _ in self._shares:
            return self._plans[number][0]
        raise NoMetadata(f"no revision of ensemble {self.name!r} serves yet")

    def plan(self, revision: int = 0, sticky_key: str = "") -> ServingPlan:
        """The plan of that revision; of 0 the one that a request gets by the shares, always the
        same for one key that is not empty. Raises RevisionNotFound, NoMetadata."""
        if revision:
            return self._pinned(revision)
        if len(self._shares) < 2:
            return self.current
        point = _point(sticky_key) if sticky_key else random.random() * 100
        for number, percent in self._shares:
            point -= percent
            if point < 0:
                return self._plans[number][0]
        return self.current

    def _pinned(self, revision: int) -> ServingPlan:
        found = self._plans.get(revision)
        if found is not None:
            return found[0]
        there = ", ".join(str(number) for number in sorted(self._plans) if number)
        text = f"revision {revision} of ensemble {self.name!r} is not loaded"
        raise RevisionNotFound(f"{text}; loaded: {there or 'none: it has no revisions'}")

    @property
    def is_ready(self) -> bool:
        """Whether every revision that gets requests has a predictor for each class."""
        serving = [self._plans[number][0] for number, _ in self._shares]
        return bool(serving) and all(plan.roster.all_ready() for plan in serving)

    @property
    def has_predictors(self) -> bool:
        """Whether any predictor is known of a revision that gets requests."""
        return any(self._plans[number][0].roster.entries for number, _ in self._shares)

    @property
    def has_revisions(self) -> bool:
        """Whether it is one that somebody applied."""
        return any(self._plans)

    @property
    def queued_rows(self) -> dict[str, int]:
        """Rows that wait, by class; those of all revisions."""
        queued: dict[str, int] = {}
        for plan in self.plans:
            for label, rows in plan.queued_rows.items():
                queued[label] = queued.get(label, 0) + rows
        return queued

    def changed(self) -> None:
        """A predictor was reached or lost, or other ones are to be asked."""
        self._reached.ring()
        self._on_change()

    async def follow(self, published: Sequence[PublishedPlan]) -> None:
        """Have these revisions from now on; returns when no predictor of another one, nor another
        predictor of these, is asked any more, or has been given up."""
        now = {each.revision: each for each in published}
        for number, each in now.items():
            if number not in self._plans:
                await self._begin(each)
        before, self._published = self._published, now
        async with asyncio.TaskGroup() as group:
            for number, each in now.items():
                # Compared as they stand: their order settles ties.
                if before.get(number) != each:
                    group.create_task(self._plans[number][0].follow(dict(each.places)))
            await self._switch(now)
            group.create_task(self._end([each for each in self._plans if each not in now]))

    async def _begin(self, published: PublishedPlan) -> None:
        stack = AsyncExitStack()
        plan = self._make(self, published)
        await stack.enter_async_context(plan.running())
        self._plans[published.revision] = plan, stack

    async def _switch(self, now: dict[int, PublishedPlan]) -> None:
        """Use the shares that are published, once what is to serve has been reached; at once if
        nothing of what served before is left."""
        wanted = tuple(
            sorted(
                ((number, each.percent) for number, each in now.items() if each.percent),
                key=lambda share: (-share[1], -share[0]),
            )
        )
        if wanted == self._shares:
            return
        if self._shares and all(number in now for number, _ in self._shares):
            await self._until_reached([number for number, _ in wanted])
        self._shares = wanted
        self._on_change()

    async def _until_reached(self, numbers: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + SWITCH_S
        while True:
            reached = self._reached.next()
            if all(self._plans[number][0].roster.all_ready() for number in numbers):
                return
            try:
                async with asyncio.timeout_at(end):
                    await reached.wait()
            except TimeoutError:
                return

    async def _end(self, numbers: Sequence[int]) -> None:
        ended = [self._plans.pop(number) for number in numbers]
        await asyncio.gather(*(stack.aclose() for _, stack in ended))


def _point(key: str) -> float:
    """A number from 0 to 100 for a key, always the same."""
    digest = hashlib.sha256(key.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64 * 100
