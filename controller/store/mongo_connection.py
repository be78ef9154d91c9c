"""The client of one MongoDB, how long its calls may take, and how sure its writes are."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from datetime import UTC
from typing import Any, TypeAlias, TypeVar

from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.int64 import Int64
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from trillium.server.tasks import Supervisor

from .mongo_errors import FOREIGN, Sentences
from .port import StoreError, StoreUnavailable

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")


class _PlainInts(TypeDecoder):
    """64-bit numbers come back as `int`, not as a class of the driver's."""

    bson_type = Int64

    def transform_bson(self, value: Any) -> int:
        return int(value)


_CODEC = CodecOptions(
    document_class=dict[str, Any],
    tz_aware=True,
    tzinfo=UTC,
    type_registry=TypeRegistry([_PlainInts()]),
)


class MongoConnection:
    """Owns the client. Every use of it but the change stream's goes through `call`."""

    def __init__(self, uri: str, database: str, timeout_s: float) -> None:
        self._uri = uri
        self._name = database
        self._timeout_s = timeout_s
        self._sentences = Sentences(uri)
        self._client: AsyncMongoClient[Document] | None = None
        self._tasks = Supervisor()

    def open(self) -> None:
        """Make the client if there is none; it connects when it is first used.

        Raises StoreError, without the URI's secrets, if the URI is no good.
        """
        if self._client is not None:
            return
        try:
            with warnings.catch_warnings():
                # The driver only warns of an option that it does not know, or whose value is wrong,
                # and goes on without it: without TLS, for example.
                warnings.simplefilter("error", UserWarning)
                self._client = self._make_client()
        except (PyMongoError, ValueError, TypeError, OSError, UserWarning) as error:
            # Without the cause: its message may quote the password.
            raise self._sentences.of_uri(error) from None

    def _make_client(self) -> AsyncMongoClient[Document]:
        ms = round(self._timeout_s * 1000)
        return AsyncMongoClient(
            self._uri,
            appname="trillium-controller",
            # After a server's "I am shutting down" the driver waits for the next heartbeat.
            heartbeatFrequencyMS=1000,
            # Half of a call's time, so that there is time left to look whether it was done.
            serverSelectionTimeoutMS=ms // 2,
            connectTimeoutMS=ms // 2,
            socketTimeoutMS=ms // 2,
            waitQueueTimeoutMS=ms // 2,
            retryWrites=True,
            retryReads=True,
        )

    async def close(self) -> None:
        """Close the client; may be repeated. Calls that are running end first or fail."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._tasks.running:
            await asyncio.wait(self._tasks.running, timeout=self._timeout_s)

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    @property
    def database(self) -> AsyncDatabase[Document]:
        """The database; whatever the URI sets, its writes wait for a majority and for the journal:
        with less, a killed server was seen to lose and to roll back what it had acknowledged."""
        if self._client is None:
            raise StoreUnavailable("the store is closed")
        return self._client.get_database(
            self._name,
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(
                w="majority", j=True, wtimeout=round(self._timeout_s * 1000) // 2
            ),
        )

    async def call(
        self,
        work: Callable[[AsyncDatabase[Document]], Coroutine[Any, Any, T]],
        *,
        timeout_s: float | None = None,
    ) -> T:
        """What `work` returns for the database; its errors are translated.

        StoreUnavailable after `timeout_s` (a call's time, if none is given). Neither that nor the
        cancellation of the caller stops the work, which the driver's own timeouts end soon after:
        the driver (4.20) is not to be cancelled. It leaves sockets open that are being connected,
        and forgets a cancellation that meets an error answer.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        # Expected errors are the caller's, if there is one left.
        task = self._tasks.start(
            "call of the database", self._translated(work(self.database)), expected=StoreError
        )
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if not done:
            raise self._sentences.of_timeout(limit_s)
        return task.result()

    async def _translated(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except FOREIGN as error:
            raise self._sentences.of(error) from error
