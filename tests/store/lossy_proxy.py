"""A proxy in front of a server that loses the answer to a command that was carried out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LossyProxy:
    """Hands bytes to and fro, until it is told to lose an answer."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._command: bytes | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.lost = 0
        self.port = 0

    def lose_next_answer_to(self, command: str) -> None:
        """Let the next `command` through, wait for its answer, and close the connection instead of
        passing it on."""
        # The name of a command is the first key of a message's document, after the type of its
        # value: text.
        self._command = b"\x02" + command.encode() + b"\0"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LossyProxy]:
        """Listens on a free port while inside."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._relays:
                task.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._relays.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            self._relays.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        losing = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(2**16):
                if self._command and self._command in data:
                    self._command = None
                    losing.set()
                to_server.write(data)
                await to_server.drain()

        async def back() -> None:
            while data := await from_server.read(2**16):
                if losing.is_set():
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        ways = {asyncio.create_task(forth()), asyncio.create_task(back())}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.close()
