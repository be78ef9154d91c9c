"""Peers are brought up one after the other; one that cannot be is left out, with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.asking import NoAnswer, first_answer
from bench.checking import Reference, check_answer, check_under_load, flowers
from bench.peers.install import installed
from bench.peers.known import PEERS
from bench.systems.known import Up

START_S = 180.0
_TAIL_BYTES = 2000


def start_peers(
    names: Sequence[str],
    models: Path,
    folder: Path,
    reference: Reference,
    stack: ExitStack,
    say: Callable[[str], None],
) -> tuple[list[Up], dict[str, str]]:
    """The peers that are up and answer right, and why the others are not.

    `stack` ends those that are up.
    """
    peers, absent = [], {}
    for name in names:
        say(f"{name} is installed and started ...")
        try:
            peers.append(_start(name, models, folder, reference, stack))
        except Exception as error:  # A peer may fail in any way; the run goes on, and says so.
            said = _tail(folder / f"{name}.log")
            last = said.splitlines()[-1:] if isinstance(error, NoAnswer) else []
            words = " ".join([f"{type(error).__name__}: {error}", *last]).split()
            absent[name] = " ".join(words)[:500]
            say(f"{name}: {absent[name]}\n{said}")
    return peers, absent


def _start(name: str, models: Path, folder: Path, reference: Reference, stack: ExitStack) -> Up:
    peer = PEERS[name]
    with ExitStack() as attempt:
        up = attempt.enter_context(peer.start(installed(peer.environment), models, folder))
        rows = flowers(1)
        check_answer(up, rows, first_answer(up, up.request(rows), START_S), reference)
        asyncio.run(check_under_load(up, reference))
        stack.enter_context(attempt.pop_all())
    return up


def _tail(log: Path) -> str:
    """The end of what a peer has said."""
    return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").rstrip() if log.exists() else ""
