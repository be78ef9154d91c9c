"""What a SQLite store asks of its connection. Each function is one job for a thread.

Table and column names come from enums and FILTERS, never from a caller; values are always bound.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import codec
from .port import FILTERS, Entry, Kind, Log, Record, Scalar

_SWEPT_AT_ONCE = 100
"""Rows of one table that one sweep removes, so that it never holds the file for long."""


def insert_record(
    file: sqlite3.Connection,
    kind: Kind,
    id: str,
    checked: codec.CheckedBody,
    text: str,
    expires: int | None,
    now: int,
) -> bool:
    """A new row of revision 1; False if the id is taken."""
    file.execute(f"DELETE FROM {kind.value} WHERE id = ? AND expires <= ?", (id, now))
    fields = FILTERS.get(kind, ())
    names = "".join(f", by_{name}" for name in fields)
    marks = ", ?" * len(fields)
    done = file.execute(
        f"INSERT INTO {kind.value} (id, rev, expires, body{names}) VALUES (?, 1, ?, ?{marks}) "
        "ON CONFLICT DO NOTHING",
        (id, expires, text, *_keys(kind, checked)),
    )
    return done.rowcount == 1


def replace_record(
    file: sqlite3.Connection,
    kind: Kind,
    id: str,
    rev: int,
    checked: codec.CheckedBody,
    text: str,
    expires: int | None,
    now: int,
) -> bool:
    """The next revision in the place of `rev`; False if the row has another one or is gone."""
    names = "".join(f", by_{name} = ?" for name in FILTERS.get(kind, ()))
    done = file.execute(
        f"UPDATE {kind.value} SET rev = rev + 1, expires = ?, body = ?{names} "
        "WHERE id = ? AND rev = ? AND (expires IS NULL OR expires > ?)",
        (expires, text, *_keys(kind, checked), id, rev, now),
    )
    return done.rowcount == 1


def delete_record(file: sqlite3.Connection, kind: Kind, id: str, rev: int, now: int) -> bool:
    """Remove revision `rev`; False if the row has another one or is gone."""
    done = file.execute(
        f"DELETE FROM {kind.value} WHERE id = ? AND rev = ? AND (expires IS NULL OR expires > ?)",
        (id, rev, now),
    )
    return done.rowcount == 1


def read_record(file: sqlite3.Connection, kind: Kind, id: str, now: int) -> Record | None:
    """The row of that id; None if there is none."""
    row = file.execute(
        f"SELECT id, rev, body FROM {kind.value} WHERE id = ? AND (expires IS NULL OR expires > ?)",
        (id, now),
    ).fetchone()
    return _record(row) if row else None


def list_records(
    file: sqlite3.Connection,
    kind: Kind,
    where: Mapping[str, Sequence[Scalar]],
    after: str,
    limit: int,
    now: int,
) -> list[Record]:
    """Rows in the order of their ids; text compares by its UTF-8 bytes in SQLite."""
    rows = _listed(file, "id, rev, body", kind, where, after, limit, now)
    return [_record(row) for row in rows]


def list_revisions(
    file: sqlite3.Connection,
    kind: Kind,
    where: Mapping[str, Sequence[Scalar]],
    after: str,
    limit: int,
    now: int,
) -> dict[str, int]:
    """Revisions by id, in the order of the ids."""
    return dict(_listed(file, "id, rev", kind, where, after, limit, now))


def _listed(
    file: sqlite3.Connection,
    columns: str,
    kind: Kind,
    where: Mapping[str, Sequence[Scalar]],
    after: str,
    limit: int,
    now: int,
) -> sqlite3.Cursor:
    conditions = ["id > ?", "(expires IS NULL OR expires > ?)"]
    values: list[str | int] = [after, now]
    for name, wanted in where.items():
        conditions.append(f"by_{name} IN ({', '.join('?' * len(wanted))})")
        values += [_key(value) for value in wanted]
    return file.execute(
        f"SELECT {columns} FROM {kind.value} WHERE {' AND '.join(conditions)} ORDER BY id LIMIT ?",
        (*values, limit),
    )


def append_entry(
    file: sqlite3.Connection,
    log: Log,
    owner: str,
    number: int,
    text: str,
    expires: int | None,
    now: int,
) -> bool:
    """A new row, or the same one again; False if there is one with another body."""
    file.execute(
        f"DELETE FROM {log.value} WHERE owner = ? AND number = ? AND expires <= ?",
        (owner, number, now),
    )
    file.execute(
        f"INSERT INTO {log.value} (owner, number, expires, body) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (owner, number, expires, text),
    )
    (found,) = file.execute(
        f"SELECT body FROM {log.value} WHERE owner = ? AND number = ?", (owner, number)
    ).fetchone()
    return bool(found == text)


def read_entries(
    file: sqlite3.Connection, log: Log, owner: str, after: int, limit: int, now: int
) -> list[Entry]:
    """Rows of `owner` in the order of their numbers."""
    rows = file.execute(
        f"SELECT number, body FROM {log.value} WHERE owner = ? AND number > ? "
        "AND (expires IS NULL OR expires > ?) ORDER BY number LIMIT ?",
        (owner, after, now, limit),
    )
    return [Entry(number, codec.from_json(text)) for number, text in rows]


@dataclass(frozen=True, slots=True)
class Changes:
    """How often the records of each kind had been changed, by anybody, at one look."""

    version: int = 0
    counts: Mapping[Kind, int] = field(default_factory=dict)

    def later(self, file: sqlite3.Connection) -> Changes:
        """A new look; costs next to nothing when nobody else has written since this one."""
        (version,) = file.execute("PRAGMA data_version").fetchone()
        if version == self.version:
            return self
        rows = file.execute("SELECT kind, count FROM changes")
        return Changes(version, {Kind(kind): count for kind, count in rows})

    def kinds_since(self, last: Changes) -> list[Kind]:
        """The kinds of which records were changed between `last` and this look."""
        return [kind for kind in self.counts if self.counts[kind] != last.counts.get(kind)]


def has_expired(file: sqlite3.Connection, now: int) -> bool:
    """Whether a sweep would find anything."""
    return any(
        file.execute(f"SELECT 1 FROM {table} WHERE expires <= ? LIMIT 1", (now,)).fetchone()
        for table in _swept()
    )


def remove_expired(file: sqlite3.Connection, now: int) -> None:
    """Remove some of what has expired, from each table, and the heads of blobs that are gone."""
    for table in _swept():
        done = file.execute(
            f"DELETE FROM {table} WHERE rowid IN "
            f"(SELECT rowid FROM {table} WHERE expires <= ? LIMIT {_SWEPT_AT_ONCE})",
            (now,),
        )
        if table == "chunks" and done.rowcount:
            file.execute(
                "DELETE FROM blobs WHERE chunks AND NOT EXISTS "
                "(SELECT 1 FROM chunks WHERE chunks.digest = blobs.digest)"
            )


def drop_entries(file: sqlite3.Connection, log: Log, owner: str) -> bool:
    """Remove some rows of `owner`; False if there were none."""
    done = file.execute(
        f"DELETE FROM {log.value} WHERE rowid IN "
        f"(SELECT rowid FROM {log.value} WHERE owner = ? LIMIT {_SWEPT_AT_ONCE})",
        (owner,),
    )
    return done.rowcount > 0


def _swept() -> Iterable[str]:
    return (*(kind.value for kind in Kind), *(log.value for log in Log), "chunks")


def _keys(kind: Kind, checked: codec.CheckedBody) -> list[str | None]:
    values = (checked.body.get(name) for name in FILTERS.get(kind, ()))
    return [None if value is None else _key(value) for value in values]


def _key(value: Scalar) -> str:
    """A text that is different for values of different types; SQLite would take True for 1."""
    return f"{type(value).__name__}:{value}" if isinstance(value, bool | int) else f"str:{value}"


def _record(row: tuple[str, int, str]) -> Record:
    id, rev, text = row
    try:
        return Record(id, rev, codec.from_json(text))
    except ValueError as error:
        return Record(id, rev, {}, f"its text is no body: {error}")
