"""A process is started without a garbage collection between fork and exec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, gc, os, sys
import uvloop
from trillium.server.children import start_process

OURS = os.getpid()

class Waiting:
    def __del__(self):
        if os.getpid() != OURS:
            os.write(1, b"collected, ")

def collect_if_it_might():
    if gc.isenabled():
        gc.collect()

async def main(start):
    one = Waiting()
    one.itself = one
    del one
    process = await start(sys.executable, "-c", "print('started')")
    assert await process.wait() == 0
    assert gc.isenabled()

gc.collect()
os.register_at_fork(after_in_child=collect_if_it_might)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main({start}))
"""


@pytest.mark.parametrize(
    ("start", "said"),
    [
        # When this is no more so, `start_process` has no reason any longer.
        ("asyncio.create_subprocess_exec", "collected, started\n"),
        ("start_process", "started\n"),
    ],
)
def test_nothing_is_collected_in_a_process_that_is_about_to_become_another(
    start: str, said: str
) -> None:
    script = SCRIPT.replace("{start}", start)
    command = (sys.executable, "-c", script)
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)
