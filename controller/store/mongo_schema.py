"""The collections of a MongoDB store: what their documents look like, and their indexes.

A record is `{_id, rev, op, body, escaped?, expires?}`. `op` names the last write. The caller's body
stands under `body`, so no key of it can meet one of ours, nor be taken for an operator; dots in its
keys are plain characters there, and keys that start with `$` are escaped, as `escaped` records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from .port import FILTERS, Kind, Log

BLOBS = "blobs"
CHUNKS = "chunks"

_NAMESPACE_EXISTS = 48
_SCALAR = ["string", "bool", "int", "long", "null"]


async def prepare(database: AsyncDatabase[dict[str, Any]]) -> None:
    """Make missing collections, validators and indexes, and replace outdated validators.

    Harmless when repeated, and when several do it at once.
    """
    found = {each["name"]: each async for each in await database.list_collections()}
    for name, validator in _validators().items():
        if name not in found:
            await _create(database, name, validator)
        elif found[name].get("options", {}).get("validator") != validator:
            await database.command("collMod", name, validator=validator)
        indexes = _indexes(name)
        if indexes:
            await database[name].create_indexes(indexes)


async def _create(
    database: AsyncDatabase[dict[str, Any]], name: str, validator: Mapping[str, Any]
) -> None:
    try:
        await database.create_collection(name, check_exists=False, validator=validator)
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:
            raise
        await database.command("collMod", name, validator=validator)


def _validators() -> dict[str, dict[str, Any]]:
    records = {kind.value: _record(FILTERS.get(kind, ())) for kind in Kind}
    logs = {log.value: _entry() for log in Log}
    return records | logs | {BLOBS: _blob(), CHUNKS: _chunk()}


def _indexes(name: str) -> list[IndexModel]:
    fields = FILTERS.get(Kind(name), ()) if name in {kind.value for kind in Kind} else ()
    return [
        # The server looks about once a minute, and drops what has expired.
        IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0, sparse=True),
        *(
            IndexModel([(f"body.{field}", ASCENDING), ("_id", ASCENDING)], name=f"by_{field}")
            for field in fields
        ),
    ]


def _record(fields: Sequence[str]) -> dict[str, Any]:
    body = {"bsonType": "object", "properties": {each: {"bsonType": _SCALAR} for each in fields}}
    return _document(
        _id={"bsonType": "string"},
        rev={"bsonType": ["int", "long"], "minimum": 1},
        op={"bsonType": "string"},
        body=body if fields else {"bsonType": "object"},
    )


def _entry() -> dict[str, Any]:
    key = _object(owner={"bsonType": "string"}, number={"bsonType": ["int", "long"], "minimum": 1})
    return _document(_id=key, op={"bsonType": "string"}, body={"bsonType": "object"})


def _blob() -> dict[str, Any]:
    return _document(_id={"bsonType": "string"}, chunks={"bsonType": ["int", "long"]})


def _chunk() -> dict[str, Any]:
    key = _object(digest={"bsonType": "string"}, number={"bsonType": ["int", "long"]})
    return _document(_id=key, content={"bsonType": "binData"})


def _document(**fields: Mapping[str, Any]) -> dict[str, Any]:
    schema = _object(**fields)
    schema["properties"] |= {"expires": {"bsonType": "date"}, "escaped": {"bsonType": "bool"}}
    return {"$jsonSchema": schema}


def _object(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"bsonType": "object", "required": list(fields), "properties": dict(fields)}
