"""The map for newcomers names what there is."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import ROOT

TEXT = (ROOT / "docs/map.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", TEXT)))
NAMED = re.findall(r"`([a-z_/]+\.py)`\s+`([A-Za-z_.]+)`", TEXT)


@cache
def names_in(file: str) -> frozenset[str]:
    """The functions and classes of a file, and the methods with their class."""
    names = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(names)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_name_is_in_its_file(file: str, name: str) -> None:
    assert name in names_in(file)


def test_every_package_is_on_the_map() -> None:
    services = ("aggregator", "controller", "gateway", "predictor", "trillium")
    generated = {f"trillium/{name}/" for name in (*services, "tensor")}
    packages = {
        f"{file.parent.relative_to(ROOT)}/"
        for service in services
        for file in (ROOT / service).glob("*/__init__.py")
    }
    assert packages - generated <= set(PATHS)
