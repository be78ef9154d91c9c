"""Finds the examples of a Markdown page: Python sessions, shell sessions, and files."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_FENCE = "```"
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    line: int
    """Number of its first line in the page, from 0."""
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed at a `$` and what it prints."""

    words: str
    printed: str


def page(name: str, addresses: Mapping[str, str]) -> str:
    """The text of a page, with other addresses in the place of those that it names."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for written, real in addresses.items():
        text = text.replace(written, real)
    return text


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page. Raises ValueError if one has no end."""
    begin = None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith(_FENCE):
            continue
        if begin is None:
            begin = number + 1
        else:
            yield Block(begin, tuple(lines[begin:number]))
            begin = None
    if begin is not None:
        raise ValueError(f"the block that begins in line {begin} has no end")


def block_after(text: str, words: str) -> Block:
    """The first block after the first line that holds `words`."""
    before = text[: text.index(words)].count("\n")
    return next(block for block in blocks(text) if block.line > before)


def commands(block: Block) -> Iterator[Command]:
    """What a shell session types, and what each line is said to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        typed = re.match(r"(?:.*\\\n)*.*\n", part)
        assert typed is not None
        yield Command(typed[0], part[typed.end() :])


def run_sessions(name: str, text: str) -> int:
    """Run all `>>>` of a page in one namespace, from top to bottom; answers how many there were.

    Raises AssertionError that shows the first examples that print something else.
    """
    kept = [""] * len(text.splitlines())
    for block in blocks(text):
        kept[block.line : block.line + len(block.lines)] = block.lines
    # Lines between blocks are empty rather than gone, so that failures name the page's lines.
    globs: dict[str, Any] = {"__name__": "__main__"}
    test = doctest.DocTestParser().get_doctest("\n".join(kept), globs, name, str(ROOT / name), 0)
    return run(test)


def run(test: doctest.DocTest) -> int:
    """Run the examples of a test; answers how many there were. Raises AssertionError."""
    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    report: list[str] = []
    result = runner.run(test, out=report.append)
    assert result.failed == 0, "".join(report)
    return result.attempted


def prints(wanted: str, got: str) -> bool:
    """Whether `got` is what a page shows, in which `...` stands for anything."""
    return doctest.OutputChecker().check_output(wanted, got, _OPTIONS)
