"""`python -m gateway`: one gateway process."""

from __future__ import annotations

import logging
import os
import sys

from gateway.config import PROGRAM, from_command_line
from trillium import logs
from trillium.process import end_with_parent, run, stop_requested


async def main() -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    config = from_command_line(sys.argv[1:], os.environ)
    # Not above: --help and wrong flags are answered at once, and gRPC heeds what `run` settles.
    from gateway.app import running_gateway

    logs.configure(PROGRAM, config.log_level)
    stopped = stop_requested()
    if config.parent_pid is not None:
        end_with_parent(config.parent_pid)
    async with running_gateway(config) as gateway:
        logging.getLogger(PROGRAM).info("serving", extra={"address": gateway.address})
        await stopped.wait()
        logging.getLogger(PROGRAM).info("draining")


if __name__ == "__main__":
    sys.exit(run(PROGRAM, main))
