"""What must hold of the product as a whole, and easily stops holding."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.house import words

STARTERS = {
    "trillium/server/tasks.py": "it is the one place",
    "trillium/waking.py": "`first_of` waits for what it starts",
    "trillium/rpc/streams.py": "it yields what its tasks return or raise",
    "trillium/rpc/accepting.py": "it is on the path of each call, and its tasks log errors",
}
"""The files that start tasks by themselves, and why they may."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the product."""
    for file in words.files(words.PRODUCT):
        if file.suffix == ".py":
            yield str(file.relative_to(words.ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def _starts_a_task(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it is a call that starts a task outside a TaskGroup, or hides how tasks end."""
    if not isinstance(node, ast.Call):
        return False
    if any(each.arg == "return_exceptions" for each in node.keywords):
        return True
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = ast.unparse(node.func.value)
    is_loop = owner == "asyncio" or "loop" in owner
    return node.func.attr == "ensure_future" or (node.func.attr == "create_task" and is_loop)


def test_tasks_are_started_and_ended_in_one_place() -> None:
    places = [
        f"{file}:{node.lineno}"
        for file, tree in modules()
        if file not in STARTERS
        for node in ast.walk(tree)
        if _starts_a_task(node)
    ]
    assert places == [], "use trillium/server/tasks.py"


@pytest.mark.parametrize("file", STARTERS)
def test_no_exception_is_out_of_date(file: str) -> None:
    tree = dict(modules())[file]
    assert any(_starts_a_task(node) for node in ast.walk(tree))


def test_each_class_name_has_one_meaning() -> None:
    homes = defaultdict(list)
    for file, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(file)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize("paths", [words.PRODUCT, words.DOCUMENTS], ids=["product", "documents"])
def test_words_are_those_of_the_field(paths: tuple[str, ...]) -> None:
    places, total = words.count(paths)
    assert 10_000 * len(places) / total <= 2, "python -m tests.house.words lists them"


def test_the_counter_of_words_reads_comments_strings_and_documents(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text('"""It tells.\n\nNo more is wanted."""\nsays = 1  # says so\n')
    document = tmp_path / "page.md"
    document.write_text("It is said.\n")

    found = [
        words.DIALECT.findall(line)
        for file in (source, document)
        for _, line in words.passages(file)
    ]

    assert [word for line in found for word in line] == ["tells", "is wanted", "says", "said"]
