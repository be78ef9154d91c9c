"""`python -m predictor`: one predictor process."""

from __future__ import annotations

import logging
import os
import sys

from trillium.server import logs
from trillium.server.process import end_with_parent, run, stop_requested

from .config import PROGRAM, from_command_line


async def main() -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    config = from_command_line(sys.argv[1:], os.environ)
    # Not above: --help and wrong flags need no gRPC, and gRPC reads what `run` sets.
    from .app import running_predictor

    logs.configure(PROGRAM, config.log_level)
    stopped = stop_requested()
    if config.parent_pid is not None:
        end_with_parent(config.parent_pid)
    async with running_predictor(config) as predictor:
        logging.getLogger(PROGRAM).info("serving", extra={"address": predictor.address})
        await stopped.wait()
        logging.getLogger(PROGRAM).info("draining")


def run_program() -> int:
    """Run it; returns the exit status."""
    return run(PROGRAM, main)


if __name__ == "__main__":
    sys.exit(run_program())
