"""Virtual environments of a test run, filled from the package index that the person's pip uses.

uv fills them, because with its cache that takes a tenth of pip's time; without a cache it fetches
all of an environment at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from scripts.install import read_uv_settings


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment of this test run; it has no pip of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *arguments: str) -> None:
        """Run `uv pip install` for this environment."""
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(self.python)]
        run([*uv, *arguments], cwd=self.folder, **_settings())

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


@cache
def _settings() -> Mapping[str, str]:
    return read_uv_settings()


def run(command: Sequence[str], cwd: Path, **settings: str) -> str:
    """The standard output of `command`, with nothing of our own environment on its path.

    `settings` are further variables of its environment.
    """
    foreign = ("COVERAGE", "PYTHON", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment["PYTHONNOUSERSITE"] = "1"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment |= settings
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:8])} … answered {done.returncode}:\n{done.stderr}")
    return done.stdout
