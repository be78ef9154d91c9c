"""What a MongoDB store asks of its database. Each function is the work of one call.

All of them may raise errors of the driver, which `MongoConnection.call` translates.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern

from . import codec
from .mongo_errors import FOREIGN, may_have_happened
from .port import Entry, Kind, Log, Record, Scalar

Document: TypeAlias = dict[str, Any]
Database: TypeAlias = AsyncDatabase[Document]


async def ping(database: Database) -> None:
    """Returns if the server answers."""
    await database.command("ping")


async def insert_record(
    database: Database, kind: Kind, id: str, checked: codec.CheckedBody, expires: datetime | None
) -> bool:
    """A new document of revision 1; False if the id is taken."""
    fields = _fields(checked, expires)
    records = database[kind.value]
    try:
        await records.insert_one({"_id": id, "rev": 1, **fields})
    except DuplicateKeyError:
        return False
    except PyMongoError as error:
        await _look_for(records, id, fields["op"], error)
    return True


async def replace_record(
    database: Database,
    kind: Kind,
    id: str,
    rev: int,
    checked: codec.CheckedBody,
    expires: datetime | None,
) -> bool:
    """The next revision in the place of `rev`; False if there is another one or none."""
    fields = _fields(checked, expires)
    gone = {name: "" for name in ("escaped", "expires") if name not in fields}
    update = {"$set": fields, "$inc": {"rev": 1}} | ({"$unset": gone} if gone else {})
    records = database[kind.value]
    try:
        done = await records.update_one({"_id": id, "rev": rev}, update)
    except PyMongoError as error:
        await _look_for(records, id, fields["op"], error)
        return True
    return done.matched_count == 1


async def delete_record(database: Database, kind: Kind, id: str, rev: int) -> bool:
    """Remove revision `rev`; False if there is another one or none."""
    done = await database[kind.value].delete_one({"_id": id, "rev": rev})
    return done.deleted_count == 1


async def read_record(database: Database, kind: Kind, id: str) -> Record | None:
    """The document of that id; None if there is none."""
    found = await database[kind.value].find_one({"_id": id})
    return _record(found) if found else None


async def list_records(
    database: Database,
    kind: Kind,
    where: Mapping[str, Sequence[Scalar]],
    after: str,
    limit: int,
) -> list[Record]:
    """Documents in the order of their ids; MongoDB compares text by its UTF-8 bytes."""
    cursor = database[kind.value].find(_listed(where, after)).sort("_id").limit(limit)
    return [_record(found) async for found in cursor]


async def list_revisions(
    database: Database,
    kind: Kind,
    where: Mapping[str, Sequence[Scalar]],
    after: str,
    limit: int,
) -> dict[str, int]:
    """Revisions by id, in the order of the ids."""
    cursor = database[kind.value].find(_listed(where, after), {"rev": 1}).sort("_id").limit(limit)
    return {found["_id"]: found["rev"] async for found in cursor}


async def append_entry(
    database: Database,
    log: Log,
    owner: str,
    number: int,
    checked: codec.CheckedBody,
    expires: datetime | None,
) -> bool:
    """A new entry, or the same one again; False if there is one with another body."""
    entry = {"_id": {"owner": owner, "number": number}, **_fields(checked, expires)}
    try:
        return await _insert_once(database[log.value], entry)
    except PyMongoError as error:
        if not may_have_happened(error):
            raise
        return await _insert_once(database[log.value], entry)


async def read_entries(
    database: Database, log: Log, owner: str, after: int, limit: int
) -> list[Entry]:
    """Entries of `owner` in the order of their numbers."""
    cursor = database[log.value].find(_entries(owner, after)).sort("_id").limit(limit)
    return [Entry(found["_id"]["number"], _body(found)) async for found in cursor]


async def drop_entries(database: Database, log: Log, owner: str) -> None:
    """Remove all entries of `owner`."""
    await database[log.value].delete_many(_entries(owner, 0))


def _entries(owner: str, after: int) -> Document:
    # A range of whole keys, because the index knows no parts of them.
    above = {"owner": owner, "number": after}
    return {"_id": {"$gt": above, "$lte": {"owner": owner, "number": codec.MAX_INT}}}


def _listed(where: Mapping[str, Sequence[Scalar]], after: str) -> Document:
    fields = {f"body.{field}": {"$in": [*values]} for field, values in where.items()}
    return {"_id": {"$gt": after}, **fields}


async def _look_for(
    records: AsyncCollection[Document], id: str, op: str, error: PyMongoError
) -> None:
    """Returns if the write `op`, which ended in `error`, was done and will last; else raises it."""
    if not may_have_happened(error):
        raise error
    try:
        # A write that changes nothing, for the sake of waiting as a write does.
        found = await records.update_one({"_id": id, "op": op}, {"$set": {"op": op}})
    except FOREIGN:
        raise error from None
    if found.matched_count == 0:
        raise error


async def _insert_once(entries: AsyncCollection[Document], entry: Document) -> bool:
    """Whether the entry, or one with an equal body, is there now and will last."""
    try:
        await entries.insert_one(entry)
    except DuplicateKeyError:
        # A majority need not have yet what the insert met.
        met = entries.with_options(read_concern=ReadConcern("local"))
        found = await met.find_one({"_id": entry["_id"]})
        if found is None or not codec.are_same(_body(found), _body(entry)):
            return False
        await entries.update_one({"_id": entry["_id"]}, {"$set": {"op": found["op"]}})
    return True


def _fields(checked: codec.CheckedBody, expires: datetime | None) -> Document:
    fields: Document = {"op": uuid.uuid4().hex, "body": checked.body}
    if checked.has_escapes:
        fields |= {"body": codec.escape(checked.body), "escaped": True}
    if expires is not None:
        fields["expires"] = expires
    return fields


def _record(found: Document) -> Record:
    if not isinstance(found.get("body"), dict):
        return Record(found["_id"], found["rev"], {}, "it has no body")
    return Record(found["_id"], found["rev"], _body(found))


def _body(found: Document) -> Document:
    body: Document = found["body"]
    return codec.unescape(body) if found.get("escaped") else body
