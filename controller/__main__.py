"""`python -m controller`: one controller process."""

from __future__ import annotations

import logging
import os
import sys

from trillium.server import logs
from trillium.server.private import keep_to_owner
from trillium.server.process import end_with_parent, run, stop_requested

from .config import PROGRAM, from_command_line
from .failpoints import Failpoints


async def main() -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    config = from_command_line(sys.argv[1:], os.environ)
    # Not above: --help and wrong flags are answered at once, and gRPC heeds what `run` settles.
    from .app import running_controller

    logs.configure(PROGRAM, config.log_level)
    keep_to_owner()
    stopped = stop_requested()
    if config.parent_pid is not None:
        end_with_parent(config.parent_pid)
    failpoints = Failpoints(os.environ)
    async with running_controller(config, failpoints=failpoints) as controller:
        logging.getLogger(PROGRAM).info("serving", extra={"address": controller.address})
        await stopped.wait()
        logging.getLogger(PROGRAM).info("draining")


def run_program() -> int:
    """Run it; answers the exit status."""
    return run(PROGRAM, main)


if __name__ == "__main__":
    sys.exit(run_program())
