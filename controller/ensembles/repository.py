"""The ensembles in the store: read, changed by compare-and-set, waited for."""

from __future__ import annotations

from collections.abc import Callable

from trillium.clock import Clock

from ..store.codec import to_milliseconds
from ..store.port import Kind, Store
from ..store.records import Records, Stored
from .bodies import from_body, to_body
from .document import EnsembleDocument
from .verbs import Application, EnsembleUpdate, apply, delete, not_there, roll_back, update


class EnsembleRepository(Records[EnsembleDocument]):
    """The ensembles of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, Kind.ENSEMBLE, from_body, to_body)
        self._clock = clock

    async def apply(self, application: Application, life: str) -> Stored[EnsembleDocument]:
        """Write what a caller wants. Raises what `verbs.apply` raises."""
        return await self.change(
            application.ensemble, lambda before: self.applied(application, before, life)
        )

    def applied(
        self, application: Application, before: EnsembleDocument | None, life: str = ""
    ) -> EnsembleDocument:
        """What an application makes of an ensemble. Raises what `verbs.apply` raises."""
        return apply(application, before, to_milliseconds(self._clock.now()), life=life)

    async def roll_back(self, id: str, revision: int, request_id: str) -> Stored[EnsembleDocument]:
        """Want an earlier revision. Raises what `verbs.roll_back` raises, and EnsembleNotFound."""
        now = to_milliseconds(self._clock.now())
        return await self._change_known(
            id, lambda before: roll_back(before, revision, now, request_id=request_id)
        )

    async def update(self, id: str, change: EnsembleUpdate) -> Stored[EnsembleDocument]:
        """Serve in another way. Raises what `verbs.update` raises, and EnsembleNotFound."""
        now = to_milliseconds(self._clock.now())
        return await self._change_known(id, lambda before: update(before, change, now))

    async def end(self, id: str) -> Stored[EnsembleDocument]:
        """Have an ensemble deleted. Raises EnsembleNotFound."""
        now = to_milliseconds(self._clock.now())
        return await self._change_known(id, lambda before: delete(before, now))

    async def known(self, id: str) -> Stored[EnsembleDocument]:
        """The ensemble of that id; raises EnsembleNotFound."""
        stored = await self.get(id)
        if stored is None:
            raise not_there(id)
        return stored

    async def _change_known(
        self, id: str, change: Callable[[EnsembleDocument], EnsembleDocument]
    ) -> Stored[EnsembleDocument]:
        def changed(before: EnsembleDocument | None) -> EnsembleDocument:
            if before is None:
                raise not_there(id)
            return change(before)

        return await self.change(id, changed)
