"""The records of one kind that have a name and versions: read, listed, changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from controller.store.port import AlreadyThere, Body, Kind, Store, TooLarge
from trillium.errors import InvalidRequest, Superseded
from trillium.rpc.uploads import is_name

T = TypeVar("T")

_TRIES = 100
"""Compare-and-set is tried so often; each loss means that somebody else got on."""
_NAMED = 20
"""So many names are told to somebody who asked for one that there is not."""


class Shelf(Generic[T]):
    """Reads records as values of one type."""

    def __init__(
        self, store: Store, kind: Kind, read: Callable[[Body], T], write: Callable[[T], Body]
    ) -> None:
        self._store = store
        self._kind = kind
        self._read = read
        self._write = write

    async def get(self, name: str) -> T | None:
        """What has that name; None if nothing has, or nothing can."""
        record = await self._store.get(self._kind, name) if is_name(name) else None
        return None if record is None else self._read(record.body)

    async def page(self, after: str, limit: int) -> Sequence[T]:
        """At most `limit` (1 to 1000) whose names come after `after`, in the order of names."""
        records = await self._store.list(self._kind, after=after, limit=limit)
        return [self._read(record.body) for record in records]

    async def change(self, name: str, change: Callable[[T | None], T]) -> T:
        """Put what `change` makes of it in its place, and answer that.

        `change` may be called several times; what it answers unchanged is not written. Raises
        Superseded, and InvalidRequest when the record would be too large.
        """
        for _ in range(_TRIES):
            record = await self._store.get(self._kind, name)
            before = None if record is None else self._read(record.body)
            after = change(before)
            rev = 0 if record is None else record.rev
            if after is before or await self._put(name, rev, after):
                return after
        raise Superseded(f"{name!r} changes too often; try again")

    async def names(self) -> str:
        """The names that there are, or the first of them, for a person."""
        records = await self._store.list(self._kind, limit=_NAMED + 1)
        names = [record.id for record in records]
        more = " and more" if len(names) > _NAMED else ""
        return (", ".join(names[:_NAMED]) or "none") + more

    async def _put(self, name: str, rev: int, value: T) -> bool:
        """Write in the place of revision `rev`, 0 meaning that there is none yet."""
        body = self._write(value)
        try:
            if rev:
                written = await self._store.compare_and_set(self._kind, name, rev, body)
                return written is not None
            await self._store.create(self._kind, name, body)
        except AlreadyThere:
            return False
        except TooLarge as error:
            text = f"{name!r} has no room for this version beside its others; use another name"
            raise InvalidRequest.of("header.name", text) from error
        return True
