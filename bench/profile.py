"""`python -m bench.profile`: flame graphs of the aggregator and one predictor under load.

py-spy looks at the processes from outside, which the system must allow: root may, and the same user
where kernel.yama.ptrace_scope is 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.asking import first_answer
from bench.checking import flowers
from bench.h2load import LOADS, Load, burst
from bench.processes import ROOT, START_S, end_on_sigterm
from bench.shares import shares, table
from bench.systems.known import Up, trillium

_LOADS = ("c1", "c64")
_RATE_HZ = 250
_BURST_S = 0.5


@contextmanager
def under(up: Up, load: Load, folder: Path) -> Iterator[None]:
    """Keep the system under load; raises what the load raised at the end."""
    message = up.request(flowers(load.rows))
    size = len(first_answer(up, message, START_S))
    seen = burst(up.address, up.method, message, size, load, 500, folder)
    count = max(100, round(_BURST_S * seen.requests / seen.took_s))
    stop = threading.Event()
    failures: list[Exception] = []

    def go_on() -> None:
        try:
            while not stop.is_set():
                burst(up.address, up.method, message, size, load, count, folder)
        except Exception as error:  # Told in the thread that waits.
            failures.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def record(pid: int, seconds: int, picture: Path) -> None:
    """Write a flame graph of a process; raises CalledProcessError."""
    spy = f"{sys.prefix}/bin/py-spy"
    options = ["--duration", str(seconds), "--rate", str(_RATE_HZ), "--output", str(picture)]
    command = [spy, "record", "--pid", str(pid), "--threads", *options]
    subprocess.run(command, check=True, timeout=seconds + 60, stdout=subprocess.DEVNULL)


def main() -> int:
    """Record all of them, and tell the shares of their parts."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--seconds", type=int, default=10, help="of each recording")
    wanted = parser.parse_args()
    wanted.output.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        folder = Path(scratch)
        with trillium(wanted.models, folder) as up:
            for load in (each for each in LOADS if each.name in _LOADS):
                with under(up, load, folder):
                    for name, pid in zip(("aggregator", "predictor"), up.pids, strict=False):
                        picture = wanted.output / f"{name}-{load.name}.svg"
                        record(pid, wanted.seconds, picture)
                        print(picture)
                        found[picture.stem] = shares(picture.read_text())
    said = table(found)
    (wanted.output / "profile.md").write_text(said + "\n")
    print(f"\n{said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
