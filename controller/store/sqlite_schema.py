"""The tables of a SQLite store, and which files are refused."""

from __future__ import annotations

import sqlite3

from .port import FILTERS, Kind, Log, StoreError

VERSION = 1
"""Raised with every change of the tables; the file carries it as its `user_version`."""
APPLICATION_ID = 0x54524C4D
"""Marks the file as ours: "TRLM"."""


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing, inside the caller's transaction.

    Raises StoreError if another program, or a newer version of this one, made the file.
    """
    version = _pragma(connection, "user_version")
    owner = _pragma(connection, "application_id")
    has_tables = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None
    if owner not in (0, APPLICATION_ID) or (owner == 0 and (version or has_tables)):
        raise StoreError("the file is a SQLite database of another program; name another file")
    if version > VERSION:
        raise StoreError(
            f"the file has schema {version}, made by a newer Trillium; this one knows up to "
            f"{VERSION}: run the newer one, or name another file"
        )
    # Always: a further kind of record needs no higher version, as an older release ignores it.
    for statement in _statements():
        connection.execute(statement)
    if version < VERSION:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _statements() -> list[str]:
    made = []
    for kind in Kind:
        fields = FILTERS.get(kind, ())
        columns = "".join(f", by_{field} TEXT" for field in fields)
        made.append(
            _table(
                kind.value,
                f"id TEXT NOT NULL PRIMARY KEY, rev INTEGER NOT NULL, expires INTEGER{columns}, "
                "body TEXT NOT NULL",
            )
        )
        made += [_index(kind.value, f"by_{field}", f"by_{field}, id") for field in fields]
        made.append(_expiry_index(kind.value))
    for log in Log:
        made.append(
            _table(
                log.value,
                "owner TEXT NOT NULL, number INTEGER NOT NULL, expires INTEGER, "
                "body TEXT NOT NULL, PRIMARY KEY (owner, number)",
            )
        )
        made.append(_expiry_index(log.value))
    made += [
        _table("blobs", "digest TEXT NOT NULL PRIMARY KEY, chunks INTEGER NOT NULL"),
        _table(
            "chunks",
            "digest TEXT NOT NULL, number INTEGER NOT NULL, expires INTEGER, "
            "content BLOB NOT NULL, PRIMARY KEY (digest, number)",
        ),
        _expiry_index("chunks"),
        # How often each kind has changed, so that a watch wakes for its own kinds only.
        _table("changes", "kind TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL"),
    ]
    made += [f"INSERT OR IGNORE INTO changes VALUES ('{kind.value}', 0)" for kind in Kind]
    return made


def _table(name: str, columns: str) -> str:
    return f"CREATE TABLE IF NOT EXISTS {name} ({columns})"


def _index(table: str, name: str, columns: str) -> str:
    return f"CREATE INDEX IF NOT EXISTS {table}_{name} ON {table} ({columns})"


def _expiry_index(table: str) -> str:
    return f"{_index(table, 'by_expires', 'expires')} WHERE expires IS NOT NULL"
