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
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
        """Run `uv pip install` for this environment."""
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(self.python)]
        run([*uv, *arguments], cwd=self.folder, **_index())

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
def _index() -> Mapping[str, str]:
    """Where pip finds packages, as uv's settings; what is set for uv itself comes first.

    Of all indexes together the newest version is taken, as pip does it.
    """
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    settings = run([sys.executable, "-m", "pip", "config", "list"], Path.cwd()).splitlines()
    # What the environment says replaces what files say.
    for line in sorted(settings, key=lambda each: each.startswith(":env:")):
        key, _, value = line.partition("=")
        if name := names.get(key.rpartition(".")[2]):
            separator = "," if name == "UV_FIND_LINKS" else " "
            found[name] = separator.join(literal_eval(value).split())
    return {name: os.environ.get(name, value) for name, value in found.items()}


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
