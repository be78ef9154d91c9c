"""The live deployments of each ensemble, kept in memory: only what has changed is read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..deployments.document import LIVE, Deployment
from ..deployments.repository import Deployments
from ..store.records import Followed


class OwnedDeployments:
    """Deployments by their owner."""

    def __init__(self, deployments: Deployments) -> None:
        self._live = Followed(deployments, LIVE)
        self._owner: dict[str, str] = {}
        """The owner of each live deployment that has one."""
        self._owned: dict[str, set[str]] = defaultdict(set)

    async def look(self) -> set[str]:
        """Look again; returns the ensembles of which a deployment is new, has changed or is gone.
        One task at a time."""
        owners = set[str]()
        for id in await self._live.look():
            stored = self._live.values.get(id)
            before = self._owner.pop(id, "")
            if before:
                owners.add(before)
                self._owned[before].discard(id)
                if not self._owned[before]:
                    del self._owned[before]
            if stored is not None and stored.value.owner:
                self._owner[id] = stored.value.owner
                self._owned[stored.value.owner].add(id)
                owners.add(stored.value.owner)
        return owners

    def of(self, ensemble: str) -> dict[str, Deployment]:
        """The live deployments of an ensemble, by id, as the last look found them."""
        return {id: self._live.values[id].value for id in sorted(self._owned.get(ensemble, ()))}

    @property
    def owners(self) -> Iterable[str]:
        """Every ensemble that has one."""
        return self._owned.keys()
