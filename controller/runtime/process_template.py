"""Predictors forked from one process that has imported everything, as children of this one.

See `predictor/template.py` for the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trillium.server import programs
from trillium.server.children import start_process

log = logging.getLogger(__name__)

ANSWER_S = 60.0
"""How long the template may take to import everything: long enough for a machine that is busy."""
HUNG_S = 2.0
"""A template that did not answer in this time, and did not compute in it either, hangs or is
stopped: predictors then start without it."""
_PR_SET_CHILD_SUBREAPER = 36
_ROOM = " " * 1024
"""Takes the room in the template's command line that those of predictors need."""
_MESSAGE_BYTES = 16


class Forked:
    """A child process that somebody else forked; used as an `asyncio.subprocess.Process`."""

    def __init__(self, pid: int) -> None:
        """`pid` is a child of this process that nobody else waits for. Raises OSError, for another
        one's child ChildProcessError."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    async def wait(self) -> int:
        """Its exit status, negative for a signal, once it has ended and was reaped."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set()


class Template:
    """The template of one runtime: started with its first predictor, ended by `close`."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        """`environment` is the whole one of the template and its predictors; None: ours."""
        self._environment = environment
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._is_ready = False
        """Whether it has imported everything."""
        self._is_closed = False

    async def fork(self, arguments: Sequence[str], output: int) -> Forked | None:
        """A predictor with these arguments, in a session of its own, that writes to `output`.

        None if the template has ended, as where something that it imports is missing, if it hangs,
        or if what it forked is no child of ours: start the predictor by itself, whose output shows
        why. Raises
        OSError if there can be no process now, or none any more because it was closed.
        """
        async with self._turn:
            # A runtime that closes may still have starts under way.
            self._refuse_if_closed()
            if self._socket is None:
                await self._start()
            assert self._socket is not None
            assert self._process is not None
            ask = (self._socket, self._process.pid, self._is_ready, arguments, output)
            try:
                with _SUBREAPER.wanted():
                    pid = await asyncio.to_thread(_ask, *ask)
            except TimeoutError:
                log.warning("the template of the predictors hangs, and is started anew")
                await self._end_hung()
                return None
            except OSError:
                await self._end()
                raise
            if pid is None:
                self._refuse_if_closed()
                log.warning("the template of the predictors has ended")
                await self._end()
                return None
            self._is_ready = True
            try:
                return Forked(pid)
            except ChildProcessError:
                log.warning("a forked predictor did not become a child of this process")
                os.kill(pid, signal.SIGKILL)
                await self._end()
                return None
            except OSError:
                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(os.waitpid, pid, 0)
                raise

    async def close(self) -> None:
        """End the template for good; what was forked from it goes on."""
        self._is_closed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        async with self._turn:
            await self._end()

    async def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(HUNG_S)
        self._is_ready = False
        with theirs:
            try:
                self._process = await start_process(
                    *programs.command("predictor.template", _ROOM),
                    stdin=theirs.fileno(),
                    env=self._environment or programs.environment(),
                )
            except BaseException:
                await self._end()
                raise

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise OSError("the template of the predictors is closed")

    async def _end_hung(self) -> None:
        """End a template that may still have forked; nothing of that stays."""
        assert self._socket is not None
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        with _SUBREAPER.wanted():
            await asyncio.to_thread(_end_what_was_forked, self._socket)
        await self._end()

    async def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None


def _ask(
    template: socket.socket, pid: int, is_ready: bool, arguments: Sequence[str], output: int
) -> int | None:
    """The id of the process that the template forked, which is now our child if we are a subreaper;
    None if the template has ended. Raises TimeoutError if it hangs, and OSError."""
    try:
        if not is_ready and not _answer(template, pid):
            return None
        socket.send_fds(template, [json.dumps(arguments).encode()], [output])
        answer = _answer(template, pid)
    except (BrokenPipeError, ConnectionResetError):
        return None
    if answer == b"0":
        raise OSError("the template of the predictors cannot be forked")
    return int(answer) if answer else None


def _answer(template: socket.socket, pid: int) -> bytes:
    """The next message of the template; empty at its end. Raises TimeoutError."""
    last, latest = _computed(pid), time.monotonic() + ANSWER_S
    while True:
        try:
            return template.recv(_MESSAGE_BYTES)
        except TimeoutError:
            now = _computed(pid)
            if now == last or time.monotonic() > latest:
                raise
            last = now


def _computed(pid: int) -> int:
    """The CPU time that a process has used, in clock ticks; -1 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return -1
    # After the name in brackets: state is field 3; utime and stime are 14 and 15.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _end_what_was_forked(template: socket.socket) -> None:
    """Kill the process that a template which is dead now had forked last, if there is one."""
    with contextlib.suppress(OSError):
        while answer := template.recv(_MESSAGE_BYTES):
            if answer.isdigit() and int(answer):
                # It may have ended by itself, as nobody let it begin.
                os.kill(int(answer), signal.SIGKILL)
                os.waitpid(int(answer), 0)


class _Subreaper:
    """Whether this process becomes the parent of its descendants whose own parent ends: it does
    while any thread wants it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._count = 0

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """It does inside the context. Raises OSError."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def _add(self, change: int) -> None:
        with self._turn:
            after = self._count + change
            if bool(after) != bool(self._count):
                _set_subreaper(bool(after))
            self._count = after


_SUBREAPER = _Subreaper()


def is_possible() -> bool:
    """Whether this system has what a template takes: Linux has, some sandboxes on it have not."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
        with _SUBREAPER.wanted():
            return True
    except OSError:
        return False


def _set_subreaper(wanted: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
