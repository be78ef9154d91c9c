"""`python -m aggregator`: one aggregator process."""

from __future__ import annotations

import logging
import os
import sys

from trillium.server import logs
from trillium.server.process import end_with_parent, run, stop_requested

from .config import PROGRAM, from_command_line
from .workers import supervise


async def main() -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    config = from_command_line(sys.argv[1:], os.environ)
    logs.configure(PROGRAM, config.log_level)
    stopped = stop_requested()
    if config.parent_pid is not None:
        end_with_parent(config.parent_pid)
    if config.workers > 1:
        await supervise(config, sys.argv[1:], stopped)
        return
    # Not above: --help and wrong flags are answered at once, and gRPC heeds what `run` settles.
    from .app import running_aggregator

    async with running_aggregator(config) as aggregator:
        logging.getLogger(PROGRAM).info("serving", extra={"address": aggregator.address})
        await stopped.wait()
        logging.getLogger(PROGRAM).info("draining")


def run_program() -> int:
    """Run it; answers the exit status."""
    return run(PROGRAM, main)


if __name__ == "__main__":
    sys.exit(run_program())
