"""The real command as a process, and what becomes of the processes that it starts."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.train_models import main as train
from tests.waiting import eventually
from trillium.cli.ports import is_free

ROOT = Path(__file__).resolve().parents[2]
UP_S = 60.0
"""How long a start may take on a busy machine."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained iris models."""
    folder = tmp_path_factory.mktemp("models")
    with contextlib.redirect_stdout(io.StringIO()):
        assert train(["--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the command: plain output, and bytecode that is kept between its many starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRILLIUM_")}
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    return {
        **kept,
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(ROOT),
    }


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free, below those that the kernel hands out."""
    while True:
        first = random.randrange(20000, 32000)
        if all(is_free(port) for port in range(first, first + count)):
            return first


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    return _stat(pid) not in (None, "Z", "X")


def _stat(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True, slots=True)
class Up:
    """A `trillium up` that was started."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    """Where it runs; its logs are below."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """Everything on standard output so far."""
        return (self.folder / "stdout").read_text()

    @property
    def complained(self) -> str:
        """Everything on standard error so far."""
        return (self.folder / "stderr").read_text()

    def children(self) -> dict[int, str]:
        """Command line by process id of every process that it has started and that runs."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and alive(int(folder.name)):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = command.decode()
        return found

    def child(self, word: str) -> int:
        """Process id of the one child whose command line has `word`."""
        (pid,) = [pid for pid, command in self.children().items() if word in command]
        return pid

    async def until(self, text: str) -> None:
        """Wait until it has said `text`."""
        await eventually(lambda: text in self.said or self.process.poll() is not None, UP_S)
        assert text in self.said, self.complained

    async def until_up(self) -> None:
        """Wait until it has shown its table and how to call it."""
        await self.until("Ctrl-C stops everything")

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        await eventually(lambda: self.process.poll() is not None, UP_S)
        return int(self.process.returncode)


@pytest.fixture
def start_up(
    models: Path, environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., Up]]:
    """Starts `trillium up` with further words on its command line; ends what a test leaves."""
    started: list[Up] = []

    def start(*words: str, folder: Path = models, port: int | None = None) -> Up:
        first = free_ports(4)
        here = tmp_path / str(len(started))
        here.mkdir()
        chosen = first if port is None else port
        ports = ["--port", str(chosen), "--predictor-port", str(first + 1)]
        with (here / "stdout").open("wb") as out, (here / "stderr").open("wb") as error:
            process = subprocess.Popen(
                [*COMMAND, "up", "--models", str(folder), *ports, *words],
                cwd=here,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )
        started.append(Up(process, chosen, here))
        return started[-1]

    yield start
    for each in started:
        for pid in (*each.children(), each.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.wait()


COMMAND = (sys.executable, "-m", "trillium")


@pytest.fixture
def trillium(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command to its end."""

    def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            env=environment,
            input=said,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=UP_S,
            check=False,
        )

    return run
