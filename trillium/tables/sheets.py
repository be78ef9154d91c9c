"""Files of rows as their formats have them: the names of the columns, and blocks of cells.

Each reader of a format answers a `Sheet`. What the cells mean is for `trillium.tables.gathering`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from trillium.errors import InvalidRequest

Wrong: TypeAlias = Callable[[str, str], None]
"""Takes note of a violation: the field, and what is wrong with it."""

BLOCK_VALUES = 2**16
"""About as many values are worked on at a time."""
_SHOWN_BYTES = 32


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Some rows that follow one another, but for those that were refused already."""

    features: Sequence[Any]
    """The cells of each column of features, [n]: texts, an array, or a list of values."""
    labels: Sequence[Any] | None
    """The cells of the column of labels, if there is one."""
    rows: Sequence[int]
    """The number of each row, from 0."""
    lines: Sequence[int] = ()
    """The line of the file on which each row ends, if it has lines."""

    def place(self, index: int) -> str:
        """A row in words."""
        text = f"row {self.rows[index]}"
        return f"{text} (line {self.lines[index]})" if self.lines else text


class Sheet(Protocol):
    """A file of rows."""

    @property
    def names(self) -> Sequence[str]:
        """Of all columns in their order; feature_0, … for a format or a file without names."""
        ...

    @property
    def has_names(self) -> bool:
        """Whether the file names its columns."""
        ...

    @property
    def index(self) -> Sequence[str]:
        """The columns that hold the index of a DataFrame, and so are no features."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was recognized, for a person: "the columns are parted by semicolons"."""
        ...

    @property
    def row_count(self) -> int | None:
        """How many rows there are, if the file declares it."""
        ...

    @property
    def decimal(self) -> str:
        """The decimal sign of numbers in texts."""
        ...

    def check(self, features: Sequence[int], label: int | None, wrong: Wrong) -> None:
        """Note what the file declares of these columns and cannot be; no row is read for it."""
        ...

    def blocks(
        self, features: Sequence[int], label: int | None, wrong: Wrong, most: int
    ) -> Iterator[CellBlock]:
        """The cells of these columns, at most `most` rows at a time. Rows that have no place in a
        block are noted."""
        ...


def numbered(count: int) -> list[str]:
    """Names of columns that have none."""
    return [f"feature_{index}" for index in range(count)]


def short(text: str) -> str:
    """`text` quoted and cut: twenty descriptions with it must fit into an answer's trailer."""
    return cut(repr(text))


def cut(text: str) -> str:
    """`text` without what is too long for a description."""
    raw = text.encode(errors="replace")
    return text if len(raw) <= _SHOWN_BYTES else raw[:_SHOWN_BYTES].decode(errors="ignore") + "..."


def sentence(error: InvalidRequest) -> str:
    """The violations of a file as a person reads them, who sees no fields of a request."""
    shown = error.violations[: InvalidRequest.SHOWN]
    texts = [
        each.description if each.field.startswith("rows[") else f"{each.field} {each.description}"
        for each in shown
    ]
    more = len(error.violations) - len(shown)
    return "; ".join([*texts, *([f"and {more} more"] if more else [])])
