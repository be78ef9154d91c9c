"""`make` installs exactly what requirements/ pins, however old pip is and whatever the index has.

Fresh environments, filled by the Makefile from an index in which every package has a newer release
than the pinned one. The index behind it is the one that the person's pip uses: without one these
tests fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.install import read_uv_settings, uv_settings
from tests.environment import Environment, run
from tests.packaging.newer_index import NEWEST, NewerIndex, newer_index

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PIPS = ("22.3", "23.0.1")
"""What the oldest supported Python came with, and what Debian 12 and Python 3.11.2 have."""
TARGETS = {".run": ("run", "train"), ".dev": ("dev",)}


def _default_index() -> str:
    """The index of a pip that nobody has set."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return run([sys.executable, "-c", code], cwd=ROOT).strip()


@pytest.fixture(scope="module")
def index() -> Iterator[NewerIndex]:
    """The person's index, with a newer release of everything."""
    settings = read_uv_settings()
    with newer_index(settings.get("UV_DEFAULT_INDEX") or _default_index(), settings) as served:
        yield served


@pytest.fixture(scope="module")
def setting(index: NewerIndex, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What pip and uv are told: that index, and a cache that knows no other."""
    cache = tmp_path_factory.mktemp("cache")
    return {
        "PIP_INDEX_URL": index.url,
        "PIP_CACHE_DIR": str(cache / "pip"),
        "UV_CACHE_DIR": str(cache / "uv"),
    }


def _pins(*names: str) -> Mapping[str, Version]:
    """What the files pin for this machine and this Python, by canonical name."""
    text = "\n".join((ROOT / "requirements" / f"{name}.txt").read_text() for name in names)
    lines = re.findall(r"(?m)^(\w[^\\\n]*==[^\\\n]*)", text)
    every = [Requirement(line) for line in lines]
    here = [each for each in every if each.marker is None or each.marker.evaluate()]
    return {
        str(canonicalize_name(each.name)): Version(str(each.specifier).removeprefix("=="))
        for each in here
    }


def _make(environment: Environment, target: str, setting: Mapping[str, str]) -> str:
    """What `make` prints while it fills the environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", f"VENV={environment.folder}", str(environment.folder / target)],
        cwd=ROOT,
        env={**kept, **setting},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _fresh(folder: Path, pip: str, setting: Mapping[str, str]) -> Environment:
    """An environment as `python -m venv` makes it, with that version of pip."""
    run([sys.executable, "-m", "venv", str(folder)], cwd=folder.parent)
    environment = Environment(folder)
    python = [str(environment.python), "-m", "pip", "install", "--quiet"]
    asked = ["--upgrade", "pip"] if pip == "newest" else [f"pip=={pip}"]
    # Not from the index of the test: its newest pip cannot be had.
    run([*python, *asked], cwd=folder.parent, PIP_CACHE_DIR=setting["PIP_CACHE_DIR"])
    return environment


@pytest.mark.packaging
@pytest.mark.timeout(600)
@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pip", [*OLDEST_PIPS, "newest"])
def test_pins_are_installed_whatever_pip_and_index(
    index: NewerIndex, setting: Mapping[str, str], tmp_path: Path, pip: str, target: str
) -> None:
    environment = _fresh(tmp_path / "environment", pip, setting)
    if pip != "newest":
        assert environment.versions()["pip"] == Version(pip)

    _make(environment, target, setting)

    pins = _pins(*TARGETS[target])
    installed = {str(canonicalize_name(n)): v for n, v in environment.versions().items()}
    assert {name: installed.get(name) for name in pins} == pins
    assert set(installed) - set(pins) <= {"pip", "setuptools", "trillium", "uv"}
    assert index.asked_newest == []
    assert {"hatchling", *_pins("uv", *TARGETS[target])} <= index.pages


@pytest.mark.packaging
def test_who_resolves_is_offered_the_newer_release(
    index: NewerIndex, setting: Mapping[str, str], tmp_path: Path
) -> None:
    """The index does what the other tests rely on."""
    uv = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(tmp_path)]
    settings = {**os.environ, **read_uv_settings(), **setting, "UV_DEFAULT_INDEX": index.url}
    refused = subprocess.run(
        [*uv, "iniconfig"], env=settings, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert set(index.asked_newest) == {f"/newest/iniconfig-{NEWEST}-py3-none-any.whl"}
    index.asked_newest.clear()


def test_uv_looks_where_pip_is_set_to_look() -> None:
    config = "\n".join(
        [
            "global.index-url='http://files/simple'",
            "global.extra-index-url='http://a/simple\\nhttp://b/simple'",
            "global.find-links='/one /two'",
            "global.trusted-host='files'",
            "global.disable-pip-version-check='1'",
            ":env:.index-url='http://environment/simple'",
            ":env:.timeout='99'",
        ]
    )

    assert uv_settings(config, {"UV_HTTP_TIMEOUT": "7"}) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "http://environment/simple",
        "UV_INDEX": "http://a/simple http://b/simple",
        "UV_FIND_LINKS": "/one,/two",
        "UV_INSECURE_HOST": "files",
        "UV_HTTP_TIMEOUT": "7",
    }
