"""Programs that run as another user of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

_BECOME = """
import encodings.idna, json, os, socket, sys, grpc
grpc.insecure_channel("127.0.0.1:1").close()  # It imports the rest.
uid = int(sys.argv[1])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
argument = json.loads(sys.argv[2])

def done(value):
    print(json.dumps(value), flush=True)

"""


class OtherUser:
    """A program of another user: it prints JSON lines with `done`, and has `argument`, json, os,
    socket and grpc."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line, "it ended without a word"
        return json.loads(line)

    async def end(self) -> None:
        self._process.terminate()
        await self._process.wait()


async def started(code: str, argument: Any, *, uid: int = OTHER) -> OtherUser:
    """Start a program as the user `uid`."""
    # It becomes that user by itself, which cannot read this Python's files any more then.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _BECOME + code,
        str(uid),
        json.dumps(argument),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    return OtherUser(process)


async def said_by(code: str, argument: Any, *, uid: int = OTHER) -> Any:
    """The first thing that a program of another user says."""
    other = await started(code, argument, uid=uid)
    try:
        return await other.next()
    finally:
        await other.end()
