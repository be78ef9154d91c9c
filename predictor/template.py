"""`python -m predictor.template`: imports what a predictor needs, and is forked into predictors.

Forked processes share the pages of what was imported, which is most of a predictor's memory, and
start at once. The process that asks becomes their parent, if it is a subreaper: exit codes, signals
and the end with the parent are then those of a process that it started itself.

Standard input is a SOCK_SEQPACKET socket. READY is written to it first, once everything is
imported. A message is a predictor's arguments as a JSON list, with
the descriptor of its output; the reply is its process id, or 0 if none can be started now. The
template ends when the socket is closed. Linux only.

No import may start a thread, an event loop or gRPC's core: they do not survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from trillium.server.process import EXIT_FAILED, EXIT_OK, run, settle_environment

from .config import PROGRAM

READY = b"ready"
_MESSAGE_BYTES = 64 * 1024
_PID_BYTES = 16
_GO = b"go"


def main() -> int:
    """Reply until the socket is closed, and be a predictor in each new process."""
    _close_what_was_inherited()
    settle_environment()
    # OpenBLAS would start threads as soon as numpy is imported; a predictor has no use for them.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    from . import app  # noqa: F401
    from .__main__ import main as serve

    if len(os.listdir("/proc/self/task")) > 1:
        print(f"{PROGRAM}: an import started a thread, so this cannot be forked", file=sys.stderr)
        return EXIT_FAILED
    gc.freeze()  # A collection writes into every object, and so would copy the shared pages.
    with socket.socket(fileno=os.dup(0)) as asker:
        arguments = _answer(asker)
    if arguments is None:
        return EXIT_OK
    sys.argv[1:] = arguments
    return run(PROGRAM, serve)


def _close_what_was_inherited() -> None:
    """Keep only the standard descriptors.

    uvloop leaves a second one of standard input to the processes that it starts. Predictors would
    inherit it, and the end of the template would go unnoticed while any of them runs.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # One of them read the folder, and is closed.
                os.close(int(name))


def _answer(asker: socket.socket) -> list[str] | None:
    """Fork for each message; the arguments in each new process, and None at the end."""
    with contextlib.suppress(BrokenPipeError):  # Nobody waits any more: the socket is closed.
        asker.send(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(asker, _MESSAGE_BYTES, 1)
        if not message:
            return None
        arguments: list[str] = json.loads(message)
        (output,) = descriptors
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                first = os.fork()
            except OSError:
                first = None
            if first == 0:
                ours.close()
                _leave(theirs, arguments)
                _attach(output)
                return arguments
            theirs.close()
            os.close(output)
            pid = ours.recv(_PID_BYTES)
            if first is not None:
                os.waitpid(first, 0)  # From here on the new process has its parent.
            asker.send(pid or b"0")
            with contextlib.suppress(BrokenPipeError):  # It may have been killed already.
                ours.send(_GO)


def _leave(template: socket.socket, arguments: Sequence[str]) -> None:
    """Fork and end, which gives the new process to the subreaper; returns in the new process."""
    try:
        if os.fork() != 0:
            os._exit(EXIT_OK)
        os.setsid()
        _show((sys.orig_argv[0], "-m", str(__package__), *arguments))
        template.send(b"%d" % os.getpid())
        if template.recv(len(_GO)) == _GO:
            return
    except OSError:
        pass  # The template replies that there is no process, or is gone itself.
    os._exit(EXIT_FAILED)


def _attach(output: int) -> None:
    """Read nothing, and write to the descriptor `output`, which is closed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.close(nothing)
    os.close(output)


def _show(words: Sequence[str]) -> None:
    """Have `ps` show these as this process's command line, as far as there is room for them.

    The room is the memory of the command line that the template was started with.
    """
    # After the name in brackets: state is field 3; arg_start and arg_end are 48 and 49.
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    line = b"\0".join(map(os.fsencode, words))
    ctypes.memmove(start, line[: end - start - 1].ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    sys.exit(main())
