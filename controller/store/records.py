"""The records of one kind as values of one type: read, listed, changed and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from trillium.errors import RecordUnreadable, Superseded
from trillium.waking import Bell

from .port import AlreadyThere, Body, Kind, Record, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRIES = 100
"""Compare-and-set is tried so often; each loss means that somebody else got on."""

_MOST_RECENT = 256
_FEW = 50
"""Up to this number of changed values are read one by one; more are read in pages."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A value as it was read."""

    id: str
    value: T
    rev: int


class Records(Generic[T]):
    """Reads, writes and watches the records of one kind."""

    def __init__(
        self,
        store: Store,
        kind: Kind,
        read: Callable[[str, Body], T],
        write: Callable[[T], Body],
        *,
        expires: Callable[[T], datetime | None] = lambda _: None,
    ) -> None:
        """`read` is given the record's id and body; a record goes when its value `expires`."""
        self._store = store
        self._kind = kind
        self._read = read
        self._write = write
        self._expires = expires
        self._changed = Bell()
        self._recent: OrderedDict[str, Stored[T]] = OrderedDict()
        self._set_aside: dict[str, tuple[int, str]] = {}
        """Revision and reason of each record that could not be read."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The ids of records that could not be read when they were last looked at, with the
        reasons. They are left out of lists, and nothing is done for them."""
        return {id: reason for id, (_, reason) in self._set_aside.items()}

    def is_set_aside(self, id: str, rev: int) -> bool:
        """Whether that revision is known to be unreadable."""
        return self._set_aside.get(id, (0, ""))[0] == rev

    async def get(self, id: str) -> Stored[T] | None:
        """The value of that id; None if there is none. Raises RecordUnreadable."""
        record = await self._store.get(self._kind, id)
        if record is None:
            self._set_aside.pop(id, None)
            return None
        return self._noted(self._stored(record))

    def recent(self, id: str) -> Stored[T] | None:
        """A value that was written or read here lately, for a write in its place: another one may
        stand there by now, and nothing is written then."""
        return self._recent.get(id)

    async def get_revision(self, id: str, rev: int) -> Stored[T] | None:
        """The same, of a value that has at least that revision: one that was written or read here
        just now is not read again."""
        recent = self._recent.get(id)
        return recent if recent is not None and recent.rev == rev else await self.get(id)

    async def page(
        self, *, after: str = "", limit: int = 1000, states: Sequence[Enum] = (), model: str = ""
    ) -> Sequence[Stored[T]]:
        """At most `limit` (1 to 1000) values whose ids come after `after`, in the order of the
        ids; only those in one of `states`, and of `model`, if that is given."""
        where = _where(states, model)
        found: list[Stored[T]] = []
        while True:
            room = limit - len(found)
            records = await self._store.list(self._kind, where=where, after=after, limit=room)
            found += self._readable(records)
            if len(records) < room or len(found) == limit:
                return found
            after = records[-1].id

    async def all(
        self, *, states: Sequence[Enum] = (), model: str = ""
    ) -> AsyncIterator[Stored[T]]:
        """Every value, in the order of the ids, a page at a time; filtered as in `page`."""
        where = _where(states, model)
        after = ""
        while records := await self._store.list(self._kind, where=where, after=after):
            for stored in self._readable(records):
                yield stored
            after = records[-1].id

    async def revisions(self, *, states: Sequence[Enum] = ()) -> dict[str, int]:
        """The revisions of every value in one of `states`, by id."""
        where = _where(states, "")
        found: dict[str, int] = {}
        after = ""
        while page := await self._store.revisions(self._kind, where=where, after=after):
            found.update(page)
            after = list(page)[-1]
        return found

    async def put(self, id: str, value: T, rev: int) -> Stored[T] | None:
        """Write a value in the place of revision `rev`, 0 if there is none yet; None if another
        one stands there. Raises TooLarge."""
        body, expires = self._write(value), self._expires(value)
        record: Record | None
        if rev:
            record = await self._store.compare_and_set(self._kind, id, rev, body, expires=expires)
        else:
            try:
                record = await self._store.create(self._kind, id, body, expires=expires)
            except AlreadyThere:
                record = None
        self._changed.ring()
        return None if record is None else self._noted(Stored(id, value, record.rev))

    async def change(self, id: str, change: Callable[[T | None], T]) -> Stored[T]:
        """Put what `change` makes of the value, None if there is none, in its place.

        `change` may be called several times. If it returns the value that it was given, nothing is
        written. Raises Superseded, and TooLarge.
        """
        async with self.turn(id):
            for _ in range(_TRIES):
                stored = await self.get(id)
                after = change(None if stored is None else stored.value)
                if stored is not None and after is stored.value:
                    return stored
                written = await self.put(id, after, 0 if stored is None else stored.rev)
                if written is not None:
                    return written
        raise Superseded(f"{self._kind.value[:-1]} {id!r} changes too often; try again")

    def turn(self, id: str) -> asyncio.Lock:
        """What those who read and write a value take turns by. Others of this process who do so
        then lose no write to each other; what is written is decided by compare-and-set alone."""
        return self._turns.setdefault(id, asyncio.Lock())

    async def delete(self, id: str, rev: int) -> bool:
        """Delete a value as it was read; False if it has changed since."""
        self._recent.pop(id, None)
        gone = await self._store.delete(self._kind, id, rev)
        self._changed.ring()
        return gone

    def changed(self) -> asyncio.Event:
        """An event that is set once some value may have changed after this call."""
        return self._changed.next()

    async def follow(self) -> None:
        """Set off `changed` for changes of other controllers, too; runs until cancelled."""
        async for _ in self._store.watch(self._kind):
            self._changed.ring()

    def _noted(self, stored: Stored[T]) -> Stored[T]:
        # Not what goes by itself: its revisions may be used again.
        if self._expires(stored.value) is None:
            self._recent[stored.id] = stored
            self._recent.move_to_end(stored.id)
            if len(self._recent) > _MOST_RECENT:
                self._recent.popitem(last=False)
        else:
            self._recent.pop(stored.id, None)
        return stored

    def _readable(self, records: Sequence[Record]) -> list[Stored[T]]:
        found = []
        for record in records:
            with contextlib.suppress(RecordUnreadable):
                found.append(self._stored(record))
        return found

    def _stored(self, record: Record) -> Stored[T]:
        reason = record.damage
        if not reason:
            try:
                value = self._read(record.id, record.body)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                self._set_aside.pop(record.id, None)
                return Stored(record.id, value, record.rev)
        what = f"{self._kind.value[:-1]} {record.id!r}"
        if not self.is_set_aside(record.id, record.rev):
            self._set_aside[record.id] = record.rev, reason
            log.error("record set aside", extra={"record": what, "detail": reason})
        raise RecordUnreadable(
            f"the record of {what} cannot be read ({reason}); it is damaged, or a newer version of "
            "Trillium wrote it"
        )


def _where(states: Sequence[Enum], model: str) -> dict[str, Sequence[str]]:
    where: dict[str, Sequence[str]] = {}
    if states:
        where["state"] = [state.value for state in states]
    if model:
        where["model"] = [model]
    return where


class Followed(Generic[T]):
    """The values in some states, kept in memory: only what has changed is read again.

    A value whose id was deleted and created anew, up to the very revision that it had, between two
    looks is taken for the earlier one: see the port for ids that are used again.
    """

    def __init__(self, records: Records[T], states: Sequence[Enum]) -> None:
        self._records = records
        self._states = states
        self._values: dict[str, Stored[T]] = {}

    @property
    def values(self) -> Mapping[str, Stored[T]]:
        """What the last look found, by id."""
        return self._values

    async def look(self) -> set[str]:
        """Look again; returns the ids of what is new, has changed or is gone since the last look.

        What was written before this call is seen. A look that failed may be repeated: the next one
        returns what this one would have.
        """
        there = await self._records.revisions(states=self._states)
        values = self._values
        stale = {
            id: rev
            for id, rev in there.items()
            if (id not in values or values[id].rev != rev)
            and not self._records.is_set_aside(id, rev)
        }
        fresh: dict[str, Stored[T]] = {}
        if len(stale) > _FEW:
            fresh = {each.id: each async for each in self._records.all(states=self._states)}
        else:
            for id, rev in stale.items():
                try:
                    stored = await self._records.get_revision(id, rev)
                except RecordUnreadable:
                    continue
                if stored is not None:
                    fresh[id] = stored
        kept = {id: stored for id, stored in values.items() if id in there}
        self._values = kept | fresh
        changed = {id for id, stored in fresh.items() if values.get(id) != stored}
        return changed | (values.keys() - self._values.keys())
