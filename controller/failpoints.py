"""Places where a test can have the controller die, named for what comes next or has just been done.

Nothing happens unless the environment names a failpoint; then the process kills itself there, as a
power cut would.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

VARIABLE = "TRILLIUM_CONTROLLER_FAILPOINT"


class Failpoints:
    """The failpoint that is armed, if any: `name`, or `name:3` for the third time it is passed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        name, _, count = environment.get(VARIABLE, "").partition(":")
        self._name = name
        self._left = int(count or 1)

    def passed(self, name: str) -> None:
        """Pass this point; does not return if it is the armed one."""
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
