"""The ensembles behind one door, and which of them a request asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from trillium.errors import InvalidRequest, NoMetadata, quoted
from trillium.violations import Violations

from .ensemble import Ensemble
from .plans.roster import Endpoint

_SHOWN = 12

Places = Mapping[Endpoint, int]
"""Where the predictors of an ensemble are, each with the position of its class."""


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
        self._places: dict[str, Places] = {}
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the ways to their predictors up inside the context."""
        async with self._stack:
            for name in self._names or (("",) if self._is_sole else ()):
                await self._added(name)
            yield

    async def _added(self, name: str) -> Ensemble:
        ensemble = self._ensembles[name] = self._make(name)
        self._ensembles = dict(sorted(self._ensembles.items()))
        await self._stack.enter_async_context(ensemble.running())
        return ensemble

    def all(self) -> tuple[Ensemble, ...]:
        """In the order of their names."""
        return tuple(self._ensembles.values())

    @property
    def awaited(self) -> tuple[Ensemble, ...]:
        """Those that must be ready: they were asked for by name, or have any predictor."""
        named = self._is_sole or bool(self._names)
        return tuple(each for each in self.all() if named or each.roster.entries)

    @property
    def is_ready(self) -> bool:
        """Whether each of those has a predictor that may be asked for every class."""
        awaited = self.awaited
        return bool(awaited) and all(each.roster.all_ready() for each in awaited)

    async def follow(self, published: Mapping[str, Places]) -> None:
        """Use these predictors, by ensemble, from now on; returns when none of the others is asked
        any more, or has been given up."""
        if self._is_sole:
            (only,) = self.all()
            merged = {key: at for places in published.values() for key, at in places.items()}
            await only.follow(merged)
            return
        changed = []
        for name in sorted(published.keys() | self._ensembles.keys()):
            places = published.get(name, {})
            if self._names and name not in self._names:
                continue
            if name not in self._ensembles:
                await self._added(name)
            # As a list: their order settles ties.
            if list(self._places.get(name, {}).items()) != list(places.items()):
                changed.append(self._ensembles[name].follow(places))
                self._places[name] = places
        await asyncio.gather(*changed)

    def chosen(self, name: str) -> Ensemble:
        """The ensemble that a request names; it need not where there is only one. Raises
        InvalidRequest, and NoMetadata while none is known."""
        ensembles = self.all()
        if not ensembles:
            text = "no class is known yet: the controller has published no predictor"
            raise NoMetadata(text)
        for each in ensembles:
            if each.name == name:
                return each
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
