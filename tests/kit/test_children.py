"""Child processes: started, watched, stopped, killed, with their output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.waiting import eventually
from trillium.server.children import ChildProcess, how_it_ended

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(below.pid, flush=True)
time.sleep(600)
"""


def python(code: str) -> tuple[str, ...]:
    """The command line of a program."""
    return (sys.executable, "-c", code)


async def test_status_and_output_of_what_ended_by_itself(tmp_path: Path) -> None:
    child = ChildProcess(tmp_path / "log")
    assert (child.pid, child.status, child.is_started) == (0, None, False)
    await child.start(*python("print('done'); raise SystemExit(3)"))
    assert child.is_started
    assert await child.ended() == 3
    assert (child.status, child.is_running, child.last_output(100)) == (3, False, "done\n")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_a_stop_lets_it_end_by_itself(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True)"
    child = ChildProcess(tmp_path / "log")
    await child.start(*python(f"{code}; signal.pause()"))
    await eventually(lambda: child.last_output(10) == "up\n")
    await child.stop(30)
    assert child.status == 7
    await child.stop(30)


async def test_what_does_not_stop_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    child = ChildProcess(tmp_path / "log")
    await child.start(*python(STUBBORN))
    await eventually(lambda: child.last_output(100).endswith("\n"))
    below = int(child.last_output(100))
    await child.stop(0.05)
    assert child.status == -9
    await eventually(lambda: not _is_running(below))


async def test_it_may_be_started_again(tmp_path: Path) -> None:
    child = ChildProcess(tmp_path / "log")
    for word in ("first", "second"):
        await child.start(*python(f"print({word!r})"))
        assert await child.ended() == 0
    assert child.last_output(100) == "first\nsecond\n"
    assert child.last_output(7) == "second\n"


async def test_no_output_is_kept_without_a_file() -> None:
    child = ChildProcess()
    await child.start(*python("pass"))
    assert await child.ended() == 0
    assert child.last_output(10) == ""


def test_endings_in_words() -> None:
    assert how_it_ended(3) == "ended with exit status 3"
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(-99) == "was ended by signal 99"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
    finally:
        assert os.getpid() != pid
