"""The records of one kind that have a name and versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from trillium.errors import InvalidRequest
from trillium.rpc.uploads import is_name

from ..store.port import TooLarge
from ..store.records import Records, Stored

T = TypeVar("T")

_NAMED = 20
"""Number of names that an error lists for one that does not exist."""


class Shelf(Records[T]):
    """What is registered under names."""

    async def get(self, id: str) -> Stored[T] | None:
        """What has that name; None if nothing has, or nothing can."""
        return await super().get(id) if is_name(id) else None

    async def change(self, id: str, change: Callable[[T | None], T]) -> Stored[T]:
        """As of every record. Raises InvalidRequest when the record would be too large."""
        try:
            return await super().change(id, change)
        except TooLarge as error:
            text = f"{id!r} has no room for one more version; use another name"
            raise InvalidRequest.of("header.name", text) from error

    async def names(self) -> str:
        """The names that there are, or the first of them, for a person."""
        names = [stored.id for stored in await self.page(limit=_NAMED + 1)]
        more = " and more" if len(names) > _NAMED else ""
        return (", ".join(names[:_NAMED]) or "none") + more
