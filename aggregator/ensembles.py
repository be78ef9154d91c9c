"""The ensembles behind one door, and which of them a request asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from trillium.errors import InvalidRequest, NoMetadata, quoted
from trillium.violations import Violations

from .ensemble import Ensemble
from .plans.published import Published, PublishedPlan, without_revisions

_SHOWN = 12


class ServedEnsembles:
    """Every ensemble that is served, by name. Without a controller, or with predictors that are
    named one by one, there is exactly one, which takes whatever it is given; otherwise there is one
    for each that the controller knows."""

    def __init__(
        self, make: Callable[[str], Ensemble], *, is_sole: bool, names: Collection[str] = ()
    ) -> None:
        """`names`, if given, are the only ones that are served."""
        self._make = make
        self._is_sole = is_sole
        self._names = tuple(names)
        self._ensembles: dict[str, Ensemble] = {}
        self._followed: dict[str, tuple[PublishedPlan, ...]] = {}
        self._running: dict[str, AsyncExitStack] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the ways to their predictors up inside the context."""
        try:
            for name in self._names or (("",) if self._is_sole else ()):
                await self._add(name)
            yield
        finally:
            await asyncio.gather(*map(self._forget, tuple(self._running)))

    async def _add(self, name: str) -> None:
        ensemble, stack = self._make(name), AsyncExitStack()
        await stack.enter_async_context(ensemble.running())
        self._running[name] = stack
        self._ensembles = dict(sorted({**self._ensembles, name: ensemble}.items()))

    async def _forget(self, name: str) -> None:
        self._ensembles = {each: at for each, at in self._ensembles.items() if each != name}
        self._followed.pop(name, None)
        await self._running.pop(name).aclose()

    def all(self) -> tuple[Ensemble, ...]:
        """In the order of their names."""
        return tuple(self._ensembles.values())

    @property
    def awaited(self) -> tuple[Ensemble, ...]:
        """Those that must be ready: they were asked for by name, or have any predictor."""
        named = self._is_sole or bool(self._names)
        return tuple(each for each in self.all() if named or each.has_predictors)

    @property
    def is_ready(self) -> bool:
        """Whether each of those has a predictor that may be asked for every class."""
        awaited = self.awaited
        return bool(awaited) and all(each.is_ready for each in awaited)

    async def follow(self, published: Published) -> None:
        """Use these plans, by ensemble, from now on; returns when no other predictor is asked any
        more, or all others have been given up."""
        if self._is_sole:
            (only,) = self.all()
            free = [plan for plans in published.values() for plan in plans if not plan.revision]
            merged = {endpoint: at for plan in free for endpoint, at in plan.places}
            await only.follow(without_revisions(merged))
            return
        changed = []
        for name in sorted(published.keys() | self._ensembles.keys()):
            # One that is not published any more keeps its classes: none is ever forgotten, but by a
            # revision that does not have it.
            plans = published.get(name) or self._without_predictors(name)
            if self._names and name not in self._names:
                continue
            if name not in self._ensembles:
                await self._add(name)
            if self._followed.get(name) != plans:
                changed.append(self._ensembles[name].follow(plans))
                self._followed[name] = plans
        await asyncio.gather(*changed)
        over = [name for name, plans in self._followed.items() if not plans]
        await asyncio.gather(*(self._forget(name) for name in over if name not in self._names))

    def _without_predictors(self, name: str) -> tuple[PublishedPlan, ...]:
        """What is left of an ensemble that is not published: nothing, if it had revisions."""
        had = self._followed.get(name)
        has_revisions = had is not None and (not had or had[0].revision > 0)
        return () if has_revisions else without_revisions({})

    def chosen(self, name: str) -> Ensemble:
        """The ensemble that a request names; it need not where there is only one, or only one that
        has revisions. Raises InvalidRequest, and NoMetadata while none is known."""
        ensembles = self.all()
        if not ensembles:
            text = "no class is known yet: the controller has published no predictor"
            raise NoMetadata(text)
        for each in ensembles:
            if each.name == name:
                return each
        owned = [each for each in ensembles if each.has_revisions]
        if not name and len(owned) == 1:
            return owned[0]
        # What its models do not declare, or not yet, is no other name.
        if len(ensembles) == 1 and not (name and ensembles[0].name):
            return ensembles[0]
        names = [repr(each.name) if each.name else "one without a name" for each in ensembles]
        more = ", ..." if len(names) > _SHOWN else ""
        what = f"is {quoted(name)}" if name else "is missing"
        text = f"{what}; this aggregator serves {', '.join(names[:_SHOWN])}{more}"
        raise InvalidRequest.of("ensemble", text)

    def asked(self, name: str, violations: Violations) -> Ensemble:
        """As `chosen`, but that a wrong name is added to the `violations` of a request, which is
        checked by the only ensemble then. Raises InvalidRequest where there are several."""
        chosen = violations.check(lambda: self.chosen(name))
        if chosen is not None:
            return chosen
        if len(self._ensembles) > 1:
            violations.raise_any()
        return self.all()[0]
