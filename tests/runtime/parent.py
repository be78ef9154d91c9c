"""`python -m tests.runtime.parent FOLDER`: two child processes and their parent, to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from controller.runtime.port import ContainerSpec
from controller.runtime.process import ProcessRuntime, ProcessSettings


async def main(folder: Path) -> None:
    """Start them, print their addresses, and wait for the end."""
    runtime = ProcessRuntime(ProcessSettings(folder=folder))
    await runtime.open()
    for instance in (0, 1):
        await runtime.create(ContainerSpec("a1", instance, 1))
    print(*(each.address for each in await runtime.look()), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
