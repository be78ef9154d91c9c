"""Ports that nobody else takes before the test that wants them does.

The kernel hands out ports from 32768 on to whoever asks for any, also one that a server has just
left and wants again. These lie below, and each worker of a run has its own.
"""

from __future__ import annotations

import itertools
import os
import random

from trillium.cli.ports import is_free

_FIRST, _WORKERS, _EACH = 20_000, 16, 750
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_OURS = range(_FIRST + _WORKER * _EACH, _FIRST + (_WORKER + 1) * _EACH)
# Another run on this machine begins elsewhere.
_turns = itertools.cycle([*_OURS[(start := random.randrange(_EACH)) :], *_OURS[:start]])


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback interface on which nobody listens."""
    return list(itertools.islice(filter(is_free, _turns), count))
