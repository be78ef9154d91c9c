"""What the tests of packaging share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.environment import Environment, created, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A fresh environment with nothing in it."""
    return created(tmp_path / "environment")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder to be in, so that nothing is imported from where we stand."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as a wheel."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of a project, built into `folder` with what is installed here."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    run([*build, str(project)], cwd=folder)
    [built] = folder.glob("*.whl")
    return built
