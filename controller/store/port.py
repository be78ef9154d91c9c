"""What the controller asks of a store. No query dialect, no transaction, no clock.

A store holds *records*: JSON-like bodies with a revision, identified by kind and id. A record is
changed by compare-and-set only, so every invariant has to live in one record. Besides records there
are *logs* (entries that are only ever appended, each with a number of its own choosing) and *blobs*
(bytes named by their SHA-256).

Every acknowledged write survives the death of the store's process and of the machine's. Every
method may raise StoreUnavailable; whoever gets that from a write does not know whether it happened,
reads again, and decides anew. The same goes for a write whose task was cancelled. Every method may
raise StoreError, too, for what needs a person: a damaged file, a database made by a newer version.
All methods may be called at once from many tasks of one event loop.

Revisions begin at 1 again when an id is deleted and created anew. Who uses an id again must have
something in the body that distinguishes the two lives, or let the record stand.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, TypeAlias

Body: TypeAlias = Mapping[str, Any]
"""JSON-like: text keys without NUL; values are None, bool, int of 64 bits, finite float, text,
aware datetime in UTC to the millisecond, bytes, and lists and mappings of those, at most 64 levels
deep. Equal after a round trip. Anything else is a TypeError or ValueError before any write."""

MAX_BODY_BYTES = 8 * 2**20
"""The size up to which every store takes a body, and above which none does: the bytes that BSON
would need for it, give or take a few for each number and null."""

Scalar: TypeAlias = str | int | bool


class Kind(Enum):
    """What a record is about. The value names its collection or table."""

    DEPLOYMENT = "deployments"
    ENSEMBLE = "ensembles"
    RUN = "runs"
    REQUEST = "requests"
    MODEL = "models"
    DATASET = "datasets"
    SNAPSHOT = "snapshots"
    WATCHER = "watchers"
    LEASE = "leases"


FILTERS: Mapping[Kind, Sequence[str]] = {
    Kind.DEPLOYMENT: ("state", "model"),
    Kind.RUN: ("state", "model"),
    Kind.MODEL: ("name",),
    Kind.DATASET: ("name",),
}
"""The top-level fields of a body by which records of a kind may be listed; they are indexed. Each
is a Scalar, None or missing in every body of that kind."""


class Log(Enum):
    """What a log is about. The value names its collection or table."""

    EVENT = "events"
    RESULT = "results"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read."""

    id: str
    rev: int
    """1 when created, and one more with each change."""
    body: Body
    damage: str = ""
    """Why the body cannot be decoded, for a person; it is empty then."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log."""

    number: int
    body: Body


class StoreError(Exception):
    """Base of what a store raises."""


class StoreUnavailable(StoreError):
    """The store does not answer. A write may have happened or not."""


class AlreadyThere(StoreError):
    """A record of that kind and id, or an entry of that number with another body, exists."""


class TooLarge(StoreError):
    """A body is larger than MAX_BODY_BYTES."""


class Store(Protocol):
    """The port. One contract suite runs against every implementation."""

    async def open(self) -> None:
        """Connect, and make collections, validators and indexes that are missing; may be repeated,
        also by several controllers at once."""
        ...

    async def close(self) -> None:
        """Let go of connections, files and threads; may be repeated. Calls that are running may
        still succeed; they and all later ones otherwise raise StoreUnavailable. Watches end so."""
        ...

    async def create(
        self, kind: Kind, id: str, body: Body, *, expires: datetime | None = None
    ) -> Record:
        """A new record with revision 1. Raises AlreadyThere, TooLarge.

        `id` has 1 to 512 bytes of UTF-8 and no NUL. The record may be dropped some time after
        `expires`, by the clock of the store; nothing else ever drops it but `delete`.
        """
        ...

    async def get(self, kind: Kind, id: str) -> Record | None:
        """The record; None if there is none."""
        ...

    async def list(
        self,
        kind: Kind,
        *,
        where: Mapping[str, Sequence[Scalar]] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[Record]:
        """At most `limit` (1 to 1000) records whose id comes after `after`, in the order of their
        ids' UTF-8 bytes; of those only the ones whose field is one of the values, for every field
        in `where`, which must stand in FILTERS. A value matches with its type: 1 is not True."""
        ...

    async def revisions(
        self,
        kind: Kind,
        *,
        where: Mapping[str, Sequence[Scalar]] | None = None,
        after: str = "",
        limit: int = 10_000,
    ) -> Mapping[str, int]:
        """The revisions, by id and in the order of `list`, of at most `limit` (1 to 10,000) of the
        records that it would list. Bodies are not read, so this is how to see what has changed."""
        ...

    async def compare_and_set(
        self, kind: Kind, id: str, rev: int, body: Body, *, expires: datetime | None = None
    ) -> Record | None:
        """Put `body` in the place of revision `rev`; None, and no effect, if the record has another
        revision or is gone. Raises TooLarge.

        A lost connection is healed inside where that is safe: the record is read again, and if it
        holds this very write, that is a success. `expires` replaces the earlier one; None
        means never.
        """
        ...

    async def delete(self, kind: Kind, id: str, rev: int) -> bool:
        """Delete revision `rev`; False, and no effect, if the record has another one or is gone."""
        ...

    async def append(
        self, log: Log, owner: str, number: int, body: Body, *, expires: datetime | None = None
    ) -> None:
        """Add entry `number` (at least 1) to the log of `owner`. Repeating it with an equal body
        changes nothing and succeeds. Raises AlreadyThere for another body, TooLarge."""
        ...

    async def read(self, log: Log, owner: str, *, after: int = 0, limit: int) -> Sequence[Entry]:
        """At most `limit` entries of `owner` with numbers above `after`, in their order."""
        ...

    async def put_blob(self, digest: str, content: bytes) -> None:
        """Keep bytes of up to 2 GiB under their SHA-256, in lower-case hexadecimal; ValueError when
        it is not theirs. What is there already is not written again. Afterwards `get_blob` answers
        all of it or, if this failed, nothing. May be repeated."""
        ...

    async def get_blob(self, digest: str) -> bytes | None:
        """The bytes, checked against their digest; None if there are none."""
        ...

    async def blobs(self, *, after: str = "", limit: int = 1000) -> Mapping[str, datetime | None]:
        """At most `limit` (1 to 1000) of the digests that `get_blob` answers and that come after
        `after`, in their order, each with the time from which it may be dropped; None if that is
        never."""
        ...

    async def expire_blob(self, digest: str, expires: datetime | None) -> None:
        """Have a blob dropped some time after `expires`, by the clock of the store; from then on
        it is as good as gone. None keeps it, as `put_blob` does. No effect on what is not there."""
        ...

    async def drop_log(self, log: Log, owner: str) -> None:
        """Delete every entry of `owner`, a bounded number at once. May be repeated."""
        ...

    def watch(self, *kinds: Kind) -> AsyncGenerator[None, None]:
        """Wakes its reader after records of these kinds (of all kinds, if none are named) may have
        changed, whoever changed them, at most about a second late; once at once. It only wakes,
        perhaps without need: the truth is read again. It never ends before the store is closed and
        heals lost connections by itself; `aclose`, or cancelling its reader, ends it."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers; raises StoreUnavailable otherwise, within 2 s."""
        ...
