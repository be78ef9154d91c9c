"""Counts words that readers of this field do not use, in strings, comments and documents.

`python -m tests.house.words PATH...` lists each place below the paths, or below the whole product.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("aggregator", "controller", "gateway", "predictor", "trillium", "protos", "scripts")
DOCUMENTS = ("docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "compose.yaml")
DIALECT = re.compile(
    r"\b(tell|tells|telling|told|say|says|saying|said|wish|wishes|mend|mends|mended|stirred|beside"
    r"|so many|so long|(?:is|are|was|were|be) wanted)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_TEXTS = (".md", ".proto", ".yaml", ".toml", ".sh", ".html", ".js")


@dataclass(frozen=True, slots=True)
class Place:
    """A word of the dialect where it stands."""

    file: str
    line: int
    word: str
    text: str


def files(paths: Sequence[str]) -> Iterator[Path]:
    """The files of the repository below `paths`, without generated ones and what others wrote."""
    listed = subprocess.run(
        ["git", "ls-files", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if "_pb2" not in name and "protos/google" not in name and "protos/inference" not in name:
            yield ROOT / name


def passages(file: Path) -> Iterator[tuple[int, str]]:
    """What of a file is prose: each comment and string of Python, each line of other texts."""
    if file.suffix == ".py":
        with io.BytesIO(file.read_bytes()) as source:
            for token in tokenize.tokenize(source.readline):
                if token.type in (tokenize.COMMENT, tokenize.STRING):
                    for offset, line in enumerate(token.string.splitlines()):
                        yield token.start[0] + offset, line
    elif file.suffix in _TEXTS:
        yield from enumerate(file.read_text(encoding="utf-8").splitlines(), 1)


def count(paths: Sequence[str]) -> tuple[list[Place], int]:
    """Each place of a word of the dialect, and how many words there are in all."""
    found, words = [], 0
    for file in files(paths):
        for number, line in passages(file):
            words += len(_WORD.findall(line))
            for match in DIALECT.finditer(line):
                name = str(file.relative_to(ROOT))
                found.append(Place(name, number, match[0], line.strip()))
    return found, words


if __name__ == "__main__":
    places, total = count(sys.argv[1:] or (*PRODUCT, *DOCUMENTS))
    for place in places:
        print(f"{place.file}:{place.line}: {place.word}: {place.text}")
    print(f"{len(places)} of {total} words, {10_000 * len(places) / max(total, 1):.1f} per 10,000")
