"""Virtual environments of a test run, filled by pip from the index that the person's pip uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment of this test run; it has no pip of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *arguments: str) -> None:
        """Run `pip install` for this environment, which lives too briefly for bytecode."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        run([*pip, *options, *arguments], cwd=self.folder)

    def run(self, code: str, *arguments: str, cwd: Path) -> Any:
        """What `code` prints, decoded from JSON."""
        return json.loads(run([str(self.python), "-c", code, *arguments], cwd=cwd))

    def versions(self) -> Mapping[str, Version]:
        """Every installed distribution and its version."""
        code = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
        )
        answer = self.run(code, cwd=self.folder)
        return {name: Version(version) for name, version in answer.items()}


def created(folder: Path) -> Environment:
    """A fresh environment in `folder`, with nothing in it."""
    venv.create(folder, symlinks=True)
    return Environment(folder)


def run(command: Sequence[str], cwd: Path) -> str:
    """The standard output of `command`, with nothing of our own environment on its path."""
    foreign = ("COVERAGE", "PYTHON", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment["PYTHONNOUSERSITE"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:8])} … answered {done.returncode}:\n{done.stderr}")
    return done.stdout
