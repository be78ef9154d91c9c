"""`python -m tests.acceptance.outliving ... FOLDER`: a controller whose predictors outlive it.

The controller is the real one. Its runtime does with processes what an engine does with containers:
several controllers share what is in a folder, an attempt exists once by its name, and nothing ends
because a controller does. Whoever uses it ends what is left with `end_all`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from controller.app import running_controller
from controller.config import from_command_line
from controller.failpoints import Failpoints
from controller.runtime.port import Container, ContainerSpec, ContainerState, Server
from trillium.server import logs
from trillium.server.process import run, stop_requested

LOOK_EVERY_S = 0.1
_LAUNCH = """
import os, sys
folder, *command = sys.argv[1:]
# Whoever is first to make this file is the container's process; any other one ends.
descriptor = os.open(folder + "/pid", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
os.write(descriptor, str(os.getpid()).encode())
os.close(descriptor)
os.execv(command[0], command)
"""


class FolderRuntime:
    """The Runtime port on a folder that controllers share: a folder in it for each container."""

    name = "process"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    async def close(self) -> None:
        return

    async def look(self) -> Sequence[Container]:
        return [seen for path in sorted(self._folder.iterdir()) if (seen := _seen(path))]

    async def create(self, spec: ContainerSpec) -> None:
        path = self._folder / f"{spec.deployment}.{spec.instance}.{spec.attempt}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            facts = {
                "id": secrets.token_hex(32),
                "deployment": spec.deployment,
                "instance": spec.instance,
                "attempt": spec.attempt,
            }
            (path / "new").write_text(json.dumps(facts))
            (path / "new").rename(path / "facts")
        seen = _seen(path)
        if seen is not None and seen.state is ContainerState.STARTING:
            await asyncio.to_thread(_start, path)

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        for path in self._folder.iterdir():
            seen = _seen(path)
            if seen is not None and seen.id == container_id:
                await asyncio.to_thread(_end, path)

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        return ""

    async def servers(self) -> Sequence[Server]:
        return [Server("here", self.name, reachable=True)]

    async def changes(self) -> AsyncGenerator[None, None]:
        while True:
            yield
            await asyncio.sleep(LOOK_EVERY_S)


def _start(path: Path) -> None:
    predictor = [sys.executable, "-m", "predictor", f"--listen=unix:{path}/s", "--threads=1"]
    with (path / "log").open("ab") as log:
        # In between stands a process that ends at once, so that nobody has to reap the predictor.
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(path), *predictor]
        shell = ["/bin/sh", "-c", '"$@" &', "sh", *command]
        subprocess.run(shell, stdout=log, stderr=log, start_new_session=True, check=True)
    give_up = time.monotonic() + 10
    while not _pid(path) and time.monotonic() < give_up:
        time.sleep(0.005)


def _end(path: Path) -> None:
    pid = _pid(path)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        give_up = time.monotonic() + 10
        while _is_alive(pid):
            assert time.monotonic() < give_up, f"process {pid} outlives SIGKILL"
            time.sleep(0.005)
    shutil.rmtree(path, ignore_errors=True)


def _seen(path: Path) -> Container | None:
    """What is there; None while it is being made or removed."""
    try:
        facts: dict[str, Any] = json.loads((path / "facts").read_text())
    except OSError:
        return None
    pid = _pid(path)
    is_running = _is_alive(pid)
    state = ContainerState.RUNNING if is_running else ContainerState.EXITED
    return Container(
        **facts,
        state=state if pid else ContainerState.STARTING,
        address=f"unix:{path}/s" if is_running else "",
        exit_code=1 if pid and not is_running else None,
    )


def _pid(path: Path) -> int:
    try:
        return int((path / "pid").read_text() or 0)
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def pids_in(folder: Path) -> dict[str, int]:
    """The processes that run in a folder, by `deployment.instance.attempt`."""
    found = {path.name: _pid(path) for path in folder.iterdir()}
    return {name: pid for name, pid in sorted(found.items()) if _is_alive(pid)}


def end_all(folder: Path) -> None:
    """End all that runs in a folder."""
    for path in folder.iterdir():
        _end(path)


async def main() -> None:
    """As `python -m controller`, but for the runtime."""
    *arguments, folder = sys.argv[1:]
    config = from_command_line(arguments, os.environ)
    logs.configure("controller", config.log_level)
    stopped = stop_requested()
    runtime, failpoints = FolderRuntime(Path(folder)), Failpoints(os.environ)
    async with running_controller(config, runtime=runtime, failpoints=failpoints) as controller:
        import logging

        logging.getLogger("controller").info("serving", extra={"address": controller.address})
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(run("controller", main))
