"""A door to an engine that carries out requests late, when their caller has long given up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class LateEngine:
    """Carries bytes to an engine; requests that match what is held wait for their release."""

    def __init__(self, engine: Path) -> None:
        self._engine = engine
        self._held = re.compile(rb"(?!)")
        self._released = asyncio.Event()
        self._idle = asyncio.Event()
        self.held_count = 0
        """Requests that wait, or waited, for a release."""
        self.answered_count = 0
        """Of those, the ones that the engine has answered."""

    def hold(self, request: str) -> None:
        """From now on, hold requests whose first line begins like the expression `request`."""
        self._held = re.compile(request.encode())
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let those that are held go to the engine, and all that follow."""
        self._held = re.compile(rb"(?!)")
        self._released.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        engine_reader, engine_writer = await asyncio.open_unix_connection(str(self._engine))
        answered = asyncio.Event()
        answers = asyncio.create_task(self._carry_back(engine_reader, writer, answered))
        was_held = False
        try:
            while data := await reader.read(1 << 16):
                if self._held.match(data):
                    was_held = True
                    self.held_count += 1
                    await self._released.wait()
                    answered.clear()
                engine_writer.write(data)
                await engine_writer.drain()
            if was_held:
                # An engine may drop the work of a caller who has hung up.
                await asyncio.wait_for(answered.wait(), 60)
                self.answered_count += 1
        except OSError:
            pass
        finally:
            engine_writer.close()
            answers.cancel()
            writer.close()
            with suppress(OSError):
                await engine_writer.wait_closed()
            with suppress(OSError):
                await writer.wait_closed()

    async def _carry_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            answered.set()
            # The client may have hung up.
            with suppress(OSError):
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def late_engine(engine: str, folder: Path) -> AsyncIterator[tuple[LateEngine, str]]:
    """Such a door to the engine at `engine`, a unix socket, and its own address."""
    late = LateEngine(Path(engine.removeprefix("unix://")))
    door = folder / "late.sock"
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(late.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_unix_server(connected, str(door))
    try:
        yield late, f"unix://{door}"
    finally:
        late.release()
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        door.unlink(missing_ok=True)
