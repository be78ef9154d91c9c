"""The library and the command where the extra `cli` is not installed, and the version."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

_WITHOUT_CLI = """
import importlib.util, sys
find_spec = importlib.util.find_spec
blocked = ("click", "pygments", "rich", "typer")
sys.modules.update(dict.fromkeys(blocked))
importlib.util.find_spec = lambda name: None if name in blocked else find_spec(name)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-c", _WITHOUT_CLI + program)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_library_needs_no_package_of_the_command() -> None:
    ended = run("import trillium; print(*(getattr(trillium, name) for name in trillium.__all__))")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("words", [(), ("--version",), ("status",)])
def test_the_command_says_what_to_install(words: tuple[str, ...]) -> None:
    ended = run(f"from trillium.cli import main; sys.argv[1:] = {words!r}; main()")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        "trillium: the command needs rich and typer, not installed here (the extra cli); "
        "install with: pip install rich typer\n"
    )


def test_the_version_is_that_of_the_package() -> None:
    command = (sys.executable, "-m", "trillium", "--version")
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout == f"trillium {version('trillium')}\n"
