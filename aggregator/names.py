"""Follows host names: the roster knows every address that a predictor's name stands for.

So `docker compose up --scale predictor-setosa=3` gives a class three predictors without a word to
the aggregator. A name is looked up again at an interval, and soon after one of its predictors was
lost. The order of the answers means nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aggregator.fanout import Fanout
from aggregator.resolving import HostName, Unresolved, host_name_of
from aggregator.roster import Endpoint, Roster, State

log = logging.getLogger(__name__)

SOON_S = 1.0
"""How soon a name is looked up again when something has changed; the pause then doubles until it is
the interval."""


class Resolver(Protocol):
    """Knows what names stand for."""

    async def look_up(self, name: HostName) -> frozenset[str]:
        """Every address of the name, as `ip:port`, and at least one; raises Unresolved. Either
        within seconds."""
        ...


class Names:
    """Keeps looking up the names of a roster."""

    def __init__(
        self, roster: Roster, fanout: Fanout, resolver: Resolver, *, interval_s: float
    ) -> None:
        self._roster = roster
        self._fanout = fanout
        self._resolver = resolver
        self._interval_s = interval_s
        self._soon_s = min(SOON_S, interval_s)
        found = {endpoint: host_name_of(endpoint.address) for endpoint in roster.names}
        self._names = {endpoint: name for endpoint, name in found.items() if name is not None}
        self._lost = {endpoint: asyncio.Event() for endpoint in self._names}
        self._missing: dict[Endpoint, frozenset[Endpoint]] = {}
        """The addresses of a name that could not be asked when it was looked at last."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the names inside the context."""
        tasks = [
            asyncio.create_task(self._follow(endpoint, name))
            for endpoint, name in self._names.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def roster_changed(self) -> None:
        """Look again soon at names whose predictors have been lost; to be told of every change."""
        for endpoint, lost in self._lost.items():
            addresses = self._roster.resolved(endpoint)
            states = {each: self._roster.state_of(each) for each in addresses}
            missing = frozenset(each for each in states if states[each] is State.UNAVAILABLE)
            if missing - self._missing.get(endpoint, frozenset()):
                lost.set()
            self._missing[endpoint] = missing

    async def _follow(self, endpoint: Endpoint, name: HostName) -> None:
        pause_s = self._soon_s
        lost = self._lost[endpoint]
        while True:
            before = self._roster.resolved(endpoint)
            lost.clear()
            try:
                await self._look(endpoint, name)
            except Exception:
                log.exception("a look-up failed", extra={"host": name.host})
            is_news = self._roster.resolved(endpoint) != before
            pause_s = self._soon_s if is_news else min(self._interval_s, pause_s * 2)
            await asyncio.sleep(self._soon_s)
            if await _is_set(lost, pause_s * random.uniform(0.8, 1.2) - self._soon_s):
                pause_s = self._soon_s

    async def _look(self, endpoint: Endpoint, name: HostName) -> None:
        try:
            addresses = await self._resolver.look_up(name)
        except Unresolved as why:
            self._keep_what_works(endpoint, str(why))
        else:
            self._take(endpoint, addresses)
        await self._fanout.follow_roster()

    def _take(self, endpoint: Endpoint, addresses: frozenset[str]) -> None:
        before = set(self._roster.resolved(endpoint))
        now = {Endpoint(endpoint.class_label, address) for address in addresses}
        if not any(map(self._roster.is_ready, now)):
            # What still works stays until one of the new ones does.
            now |= {each for each in before if self._roster.is_ready(each)}
        if now != before:
            ordered = sorted(each.address for each in now)
            self._roster.set_resolved(endpoint, ordered)
            facts = {"class_label": endpoint.class_label, "address": endpoint.address}
            log.info("name resolved", extra={**facts, "addresses": ordered})

    def _keep_what_works(self, endpoint: Endpoint, why: str) -> None:
        """Nobody says what the name stands for: unknown is not dead, but what is dead is let go."""
        hopeful = (State.READY, State.CONNECTING)
        if any(self._roster.state_of(each) in hopeful for each in self._roster.resolved(endpoint)):
            log.debug("look-up failed", extra={"detail": why})
            return
        self._roster.set_resolved(endpoint, ())
        if self._roster.lost(endpoint, why):
            facts = {"class_label": endpoint.class_label, "address": endpoint.address}
            log.info("predictor lost", extra={**facts, "detail": why})
        self._fanout.fail_what_has_no_hope()


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event, for a while; answers whether it came."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
