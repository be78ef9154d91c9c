"""Follows host names: the roster has every address that a predictor's host name resolves to.

So `docker compose up --scale predictor-setosa=3` gives a class three predictors, and the aggregator
needs no new setting. A name is resolved again at an interval, and soon after one of its predictors
was lost. The order of the addresses means nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from trillium.server.tasks import Supervisor

from ..lanes.fanout import Fanout
from .resolving import HostName, Unresolved, host_name_of
from .roster import Endpoint, LinkState, Roster

log = logging.getLogger(__name__)

SOON_S = 1.0
"""Pause before a name is resolved again after a change; it then doubles up to the interval."""


class Resolver(Protocol):
    """Resolves host names."""

    async def look_up(self, name: HostName) -> frozenset[str]:
        """Every address of the name, as `ip:port`, at least one, within seconds. Raises
        Unresolved."""
        ...


class Names:
    """Keeps resolving the host names of a roster."""

    def __init__(
        self, roster: Roster, fanout: Fanout, resolver: Resolver, *, interval_s: float
    ) -> None:
        self._roster = roster
        self._fanout = fanout
        self._resolver = resolver
        self._interval_s = interval_s
        self._soon_s = min(SOON_S, interval_s)
        self._names = {
            endpoint: name
            for endpoint in roster.names
            if (name := host_name_of(endpoint.address)) is not None
        }
        self._lost = {endpoint: asyncio.Event() for endpoint in self._names}
        self._missing: dict[Endpoint, frozenset[Endpoint]] = {}
        """The addresses of each name that could not be asked at the last change."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the names inside the context."""
        async with Supervisor() as supervisor:
            for endpoint, name in self._names.items():
                supervisor.keep(f"resolver of {name.host}", partial(self._follow, endpoint, name))
            yield

    def roster_changed(self) -> None:
        """Resolve names soon whose predictors have been lost; called after every change."""
        for endpoint, lost in self._lost.items():
            addresses = self._roster.resolved(endpoint)
            states = {each: self._roster.state_of(each) for each in addresses}
            missing = frozenset(each for each in states if states[each] is LinkState.UNAVAILABLE)
            if missing - self._missing.get(endpoint, frozenset()):
                lost.set()
            self._missing[endpoint] = missing

    async def _follow(self, endpoint: Endpoint, name: HostName) -> None:
        pause_s = self._soon_s
        lost = self._lost[endpoint]
        while True:
            before = self._roster.resolved(endpoint)
            lost.clear()
            await self._look(endpoint, name)
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
            # What still works stays until one of the new ones is ready.
            now |= {each for each in before if self._roster.is_ready(each)}
        if now != before:
            ordered = sorted(each.address for each in now)
            self._roster.set_resolved(endpoint, ordered)
            facts = {"class_label": endpoint.class_label, "address": endpoint.address}
            log.info("name resolved", extra={**facts, "addresses": ordered})

    def _keep_what_works(self, endpoint: Endpoint, why: str) -> None:
        """The name cannot be resolved: keep predictors that may work, remove the lost ones."""
        hopeful = (LinkState.READY, LinkState.CONNECTING)
        if any(self._roster.state_of(each) in hopeful for each in self._roster.resolved(endpoint)):
            log.debug("look-up failed", extra={"detail": why})
            return
        self._roster.set_resolved(endpoint, ())
        if self._roster.lost(endpoint, why):
            facts = {"class_label": endpoint.class_label, "address": endpoint.address}
            log.info("predictor lost", extra={**facts, "detail": why})
        self._fanout.fail_what_has_no_hope()


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event, at most `within_s` seconds; returns whether it came."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
