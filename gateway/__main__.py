"""`python -m gateway`: one gateway process."""

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
    # Not above: --help and wrong flags end the program at once, and `run` sets what gRPC reads.
    from .app import running_gateway

    logs.configure(PROGRAM, config.log_level)
    stopped = stop_requested()
    if config.parent_pid is not None:
        end_with_parent(config.parent_pid)
    log = logging.getLogger(PROGRAM)
    async with running_gateway(config) as gateway:
        log.info("serving", extra={"address": gateway.address})
        gateway.serving.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if gateway.serving.done():
            failure = gateway.serving.exception()
            log.error("the HTTP server ended unexpectedly", exc_info=failure)
            raise RuntimeError("the HTTP server ended unexpectedly")
        log.info("draining")


def run_program() -> int:
    """Run the gateway. Returns the exit status."""
    return run(PROGRAM, main)


if __name__ == "__main__":
    sys.exit(run_program())
