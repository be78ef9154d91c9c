"""A caller that speaks HTTP/2 and may say whatever it wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

GRPC = (("te", "trailers"), ("content-type", "application/grpc"))
_PATIENCE_S = 60.0

Headers = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    """Those of the response and the trailers; trailers win."""
    body: bytes = b""
    reset: int | None = None
    blocks: int = 0
    """Of headers: 1 for a status without messages, 2 otherwise."""


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = H2Configuration(validate_outbound_headers=False)
        self._http = H2Connection(config)
        self._reader, self._writer = reader, writer
        self._http.initiate_connection()
        self._flush()

    def begin(
        self, path: str, headers: Headers = (), *, base: Headers = GRPC, method: str = "POST"
    ) -> int:
        """Open a stream; answers its number."""
        stream = self._http.get_next_available_stream_id()
        pseudo = ((":method", method), (":scheme", "http"), (":path", path), (":authority", "x"))
        self._http.send_headers(stream, [*pseudo, *base, *headers])
        self._flush()
        return stream

    def send(self, stream: int, body: bytes, *, end: bool = True) -> None:
        self._http.send_data(stream, body, end_stream=end)
        self._flush()

    def reset(self, stream: int) -> None:
        self._http.reset_stream(stream, 8)
        self._flush()

    async def answer(self, stream: int) -> Answer:
        """What comes on `stream`, up to its end."""
        answer = Answer()
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                received = await self._reader.read(65536)
                assert received, "the connection was closed"
                for event in self._http.receive_data(received):
                    if getattr(event, "stream_id", None) != stream:
                        continue
                    match event:
                        case ResponseReceived() | TrailersReceived():
                            answer.blocks += 1
                            answer.headers |= {
                                bytes(key).decode(): bytes(value).decode()
                                for key, value in event.headers or ()
                            }
                        case DataReceived():
                            answer.body += event.data or b""
                        case StreamReset():
                            answer.reset = int(event.error_code or 0)
                            return answer
                        case StreamEnded():
                            return answer
                self._flush()

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    """A connection to `host:port`, which ends without a word."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
