"""Server processes: started, found ready, measured from /proc, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0
STOP_S = 10.0
_TRY_AGAIN_SOON = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
)
"""By itself gRPC tries at 0, 1, 2.6 and 5 seconds, which is then when a start seems to be over."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used, their children included."""

    cpu_s: float
    pss_bytes: int
    """Proportional set size: pages that several share count once in the sum."""
    processes: int


@dataclass(frozen=True, slots=True)
class Started:
    """A process at the moment of its system's first answer."""

    name: str
    after_s: float
    """From the start of the first process to its own, in steps of the kernel's clock tick."""
    cpu_s: float
    pss_bytes: int


def started(roots: Sequence[int]) -> list[Started]:
    """These processes and all that descend from them, in the order in which they were started."""
    found = sorted((int(_born(pid) or 0), pid) for pid in _with_descendants(roots))
    first = min(born for born, _ in found if born)
    return [
        Started(_name(pid), (born - first) * _TICK_S, used.cpu_s, used.pss_bytes)
        for born, pid in found
        if born
        for used in [_used(pid)]
        if used is not None
    ]


def _name(pid: int) -> str:
    """The module that a Python runs, or the program."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    if "-m" in words[:4]:
        return words[words.index("-m") + 1]
    return Path(words[0]).name


def usage(roots: Sequence[int]) -> Usage:
    """What these processes and all that descend from them have used so far."""
    found = [used for pid in _with_descendants(roots) if (used := _used(pid)) is not None]
    cpu_s = sum(used.cpu_s for used in found)
    return Usage(cpu_s, sum(used.pss_bytes for used in found), len(found))


def _used(pid: int) -> Usage | None:
    """What one process has used, with the children that it has waited for; None if it is gone."""
    try:
        # After the name in brackets: state is field 3; utime, stime, cutime, cstime 14 to 17.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    (kib,) = (int(line.split()[1]) for line in memory.splitlines() if line.startswith("Pss:"))
    return Usage(sum(map(int, fields[11:15])) * _TICK_S, kib * 1024, 1)


def _with_descendants(roots: Sequence[int]) -> list[int]:
    found = list(roots)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@contextmanager
def running(
    *commands: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[list[int]]:
    """These commands as processes, what they say appended to `log`.

    All are ended at the end, and what descends from them. `environment` adds variables.
    """
    variables = {**os.environ, **(environment or {})}
    with ExitStack() as stack, log.open("ab") as output:
        started = []
        for command in commands:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            stack.callback(_end, process)
            started.append(process)
        yield [process.pid for process in started]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process; descendants that do not end with it are killed."""
    descendants = {pid: _born(pid) for pid in _with_descendants([process.pid])[1:]}
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, born in descendants.items():
        # Another process may have the number by now.
        if born is not None and _born(pid) == born:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or only its exit code to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _born(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None if there is no such one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def end_on_sigterm() -> None:
    """Have SIGTERM end this program as Ctrl-C does, so that it leaves no server running."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def python(module: str, *words: str) -> list[str]:
    """The command line of a module of this project."""
    return [sys.executable, "-m", module, *words]


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answered(address: str, method: str, request: bytes) -> bytes:
    """The first answer of a server that is being started."""
    deadline = time.monotonic() + START_S
    with grpc.insecure_channel(address, options=_TRY_AGAIN_SOON) as channel:
        call: Any = channel.unary_unary(method)
        while True:
            try:
                return bytes(call(request, timeout=5, wait_for_ready=True))
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{address} did not come up: {error}") from error
                time.sleep(0.05)
