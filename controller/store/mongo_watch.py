"""Learning from MongoDB that something changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pymongo.errors import OperationFailure

from trillium.server.tasks import Backoff

from .mongo_connection import MongoConnection
from .mongo_errors import FOREIGN, NO_CHANGE_STREAMS
from .port import Kind, StoreUnavailable
from .wakes import StoreWatches

_log = logging.getLogger(__name__)

_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
_WAIT_MS = 500
"""How long the server holds a question for changes; below every timeout of the connection."""
_POLL_EVERY_S = 0.5
_POLLS = 120
"""After this many, check whether the server has become a replica set."""
_PAUSES = Backoff(first_s=0.25)


async def follow(connection: MongoConnection, wakes: StoreWatches) -> None:
    """Wake those who watch, until `wakes` is closed. Not to be cancelled, see `call`.

    A stream that breaks is begun anew, without its resume token, which may be too old to be of use:
    everybody is woken instead, and so misses nothing.
    """
    failures = 0
    while not wakes.is_closed:
        failures += 1
        try:
            await _stream(connection, wakes)
            failures = 0
        except (StoreUnavailable, *FOREIGN) as error:
            if isinstance(error, OperationFailure) and error.code == NO_CHANGE_STREAMS:
                failures = 0
                await _poll(wakes)
            elif not wakes.is_closed:
                _log.info("the change stream ended and begins anew: %s", type(error).__name__)
                await wakes.pause(_PAUSES.first_s)
        except Exception:
            # A defect: whoever watches must hear of changes all the same.
            _log.exception("the change stream failed and begins anew")
            await wakes.pause(_PAUSES.pause_s(failures))


async def _stream(connection: MongoConnection, wakes: StoreWatches) -> None:
    wanted: list[Mapping[str, Any]] = [
        {"$match": {"ns.coll": {"$in": [*_KINDS]}}},
        {"$project": {"ns": 1}},
    ]
    stream = await connection.database.watch(wanted, max_await_time_ms=_WAIT_MS)
    async with stream:
        wakes.wake()
        while stream.alive and not wakes.is_closed:
            change = await stream.try_next()
            if change is not None:
                wakes.wake([_KINDS[change["ns"]["coll"]]])


async def _poll(wakes: StoreWatches) -> None:
    for _ in range(_POLLS):
        if wakes.is_closed:
            return
        wakes.wake()
        await wakes.pause(_POLL_EVERY_S)
