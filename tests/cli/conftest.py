"""The real command as a process, and what becomes of the processes that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.ports import free_ports
from tests.trained import made_once, trained
from tests.waiting import eventually
from trillium.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
UP_S = 120.0
"""How long a start may take on a busy machine."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained iris models."""
    return trained(tmp_path_factory, "iris")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of the command: plain output, held back as Python does where nobody asks for less."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRILLIUM_")}
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "PYTHONUNBUFFERED"):
        kept.pop(name, None)
    return {
        **kept,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(ROOT),
    }


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    return _stat(pid) not in (None, "Z", "X")


def _stat(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pid: int) -> dict[int, str]:
    """Command line by process id of every process that runs and descends from `pid`."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            child = int(folder.name)
            parents[child] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[child] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    found: dict[int, str] = {}
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found |= {child: commands[child] for child in generation if alive(child)}
    return found


@dataclass(frozen=True, slots=True)
class Up:
    """A `trillium up` that was started."""

    process: subprocess.Popen[bytes]
    port: int
    controller_port: int
    folder: Path
    """Where it runs; its state is below."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def controller_address(self) -> str:
        return f"127.0.0.1:{self.controller_port}"

    @property
    def said(self) -> str:
        """Everything on standard output so far."""
        return (self.folder / "stdout").read_text()

    @property
    def complained(self) -> str:
        """Everything on standard error so far."""
        return (self.folder / "stderr").read_text()

    def processes(self, module: str = "") -> dict[int, str]:
        """Command line by process id of all that runs for it, or of all such servers."""
        every = descendants(self.process.pid)
        words = f"-m {module} " if module else "-m "
        return {pid: command for pid, command in every.items() if words in command}

    def server(self, module: str) -> int:
        """Process id of the one such server."""
        (pid,) = self.processes(module)
        return pid

    async def until(self, text: str, times: int = 1) -> None:
        """Wait until it has said `text` so many times."""

        def has_said() -> bool:
            return self.said.count(text) >= times or self.process.poll() is not None

        await eventually(has_said, UP_S)
        assert self.said.count(text) >= times, self.said + self.complained

    async def until_up(self) -> None:
        """Wait until it has shown everything, and only what is to stay is there."""
        await self.until("Ctrl-C stops everything")
        # The predictor of the run is removed after the run has ended. The template stays.
        await eventually(lambda: len(self.processes()) == 6)

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        await eventually(lambda: self.process.poll() is not None, UP_S)
        return int(self.process.returncode)

    async def ended_with_all(self) -> int:
        """The same; everything that it has ever started has ended then, too."""
        seen: set[int] = set()

        def has_ended() -> bool:
            seen.update(self.processes())
            return self.process.poll() is not None

        await eventually(has_ended, UP_S)
        assert not any(map(alive, seen))
        return int(self.process.returncode)

    def end(self) -> None:
        """Have nothing left of it."""
        for pid in (*self.processes(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass(slots=True)
class Starter:
    """Starts `trillium up`, each in a folder of its own."""

    models: Path
    environment: dict[str, str]
    folder: Path
    started: list[Up] = field(default_factory=list)

    def __call__(
        self,
        *words: str,
        models: Path | None = None,
        state: Path | None = None,
        ports: tuple[int, int] | None = None,
    ) -> Up:
        """Start it with further words on its command line, and a copy of an earlier state."""
        here = self.folder / str(len(self.started))
        here.mkdir()
        if state is not None:
            shutil.copytree(state, here / ".trillium")
        port, controller_port = ports or free_ports(2)
        listen = ["--port", str(port), "--controller-port", str(controller_port)]
        with (here / "stdout").open("wb") as out, (here / "stderr").open("wb") as error:
            process = subprocess.Popen(
                [*COMMAND, "up", "--models", str(models or self.models), *listen, *words],
                cwd=here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )
        self.started.append(Up(process, port, controller_port, here))
        return self.started[-1]


@pytest.fixture
def start_up(models: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Starter]:
    """Starts `trillium up`; ends what a test leaves."""
    starter = Starter(models, environment, tmp_path)
    yield starter
    for each in starter.started:
        each.end()


@pytest.fixture(scope="session")
def first_demo(
    models: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where the first `trillium up --demo` ever ran, and left its `stdout`, `stderr` and state.

    One for all workers; it has ended well, and so has everything that it started.
    """

    def demonstrate(folder: Path) -> None:
        demo = Starter(models, environment, folder)("--demo")
        try:
            assert asyncio.run(demo.ended_with_all()) == 0, demo.complained
        finally:
            demo.end()

    return made_once(tmp_path_factory, "first-demo", demonstrate) / "0"


@pytest.fixture(scope="session")
def state(first_demo: Path) -> Path:
    """The state that an earlier `trillium up` has left."""
    return first_demo / ".trillium"


@pytest.fixture(scope="session")
def ensemble(
    models: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    """One that is started once for all tests that leave it whole."""
    shared = Starter(models, environment, tmp_path_factory.mktemp("shared"))()
    yield shared
    shared.end()


@pytest.fixture
async def running(ensemble: Up) -> Up:
    """The shared one, once it is up."""
    await ensemble.until_up()
    return ensemble


COMMAND = (sys.executable, "-m", "trillium")


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def trillium(environment: dict[str, str]) -> Command:
    """Runs the command to its end in this process, which starts in no time.

    What it should have caught and did not is raised.
    """
    foreign = {name: None for name in os.environ if name not in environment}
    runner = CliRunner(env=foreign)

    def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        ended = runner.invoke(app, words, input=said, prog_name="trillium", catch_exceptions=False)
        return subprocess.CompletedProcess(words, ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def trillium_process(environment: dict[str, str]) -> Command:
    """Runs the command to its end as a person does, in a process of its own."""

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


@pytest.fixture
def unused() -> tuple[int, int]:
    """Two ports that nobody listens on."""
    first, second = free_ports(2)
    return first, second
