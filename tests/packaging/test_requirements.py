"""The pinned requirements are what pyproject.toml asks for, and name no machine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "run": ("predictor",),
    "train": ("train",),
    "dev": ("dev",),
}


def _text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def _pins(name: str) -> set[tuple[str, str]]:
    """Every (distribution, version) in a file; one may have two, for different Pythons."""
    found = re.findall(r"^([\w.-]+)==(\S+)", _text(name), flags=re.MULTILINE)
    return {(canonicalize_name(distribution), version) for distribution, version in found}


def _asked(*extras: str) -> Iterator[Requirement]:
    """The base dependencies and those of `extras`, with the extras that they name in turn."""
    optional: Mapping[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *(x for e in extras for x in optional[e])]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["project"]["name"]:
            yield from _asked(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_pinned_inside_its_bounds(name: str) -> None:
    for requirement in _asked(*EXTRAS[name]):
        versions = {v for pinned, v in _pins(name) if pinned == canonicalize_name(requirement.name)}
        assert versions, f"{requirement} is not in requirements/{name}.txt: run make requirements"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize("name", ["run", "train", "build", "uv"])
def test_development_installs_the_same_versions(name: str) -> None:
    assert _pins(name)
    assert _pins(name) <= _pins("dev")


@pytest.mark.parametrize("name", ["run", "train", "dev", "build", "uv"])
def test_pins_name_no_index_and_no_path(name: str) -> None:
    assert not re.search(r"https?:|file:|(?m:^-)|index-url|find-links|\s/", _text(name))
