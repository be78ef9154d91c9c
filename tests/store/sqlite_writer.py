"""A process that writes to a SQLite store, for tests that kill it. Says each revision that was
acknowledged on a line of its own: `python -m tests.store.sqlite_writer FILE ID TIMES`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from controller.store.port import AlreadyThere, Kind
from controller.store.sqlite import SqliteStore


async def main(path: Path, id: str, times: int) -> None:
    store = SqliteStore(path)
    await store.open()
    try:
        print((await store.create(Kind.RUN, id, {"n": 0})).rev, flush=True)
    except AlreadyThere:
        print(0, flush=True)
    while times:
        found = await store.get(Kind.RUN, id)
        assert found is not None
        body = {"n": found.body["n"] + 1}
        done = await store.compare_and_set(Kind.RUN, id, found.rev, body)
        if done:
            times -= 1
            print(done.rev, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
