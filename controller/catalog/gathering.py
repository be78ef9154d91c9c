"""Rows as a reader of some format finds them: checked, narrowed to float32, counted.

Rows and columns are counted from 0, as everywhere on the wire. Every violation is kept; with the
twentieth the reading ends, since whoever has so many wants to mend the file first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trillium.columns import is_unnamed
from trillium.errors import InvalidRequest, Violation
from trillium.rows import MAX_VIOLATIONS, WIRE_DTYPE, Rows

LABEL = "label"
"""The column that holds the true class."""
LONGEST_TEXT = 200
"""Characters that the name of a column and a label may have."""
BLOCK_VALUES = 2**16
"""About as many values are worked on at a time."""

_SHOWN_BYTES = 32
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """How large a dataset may be."""

    max_rows: int = 1_000_000
    max_columns: int = 4096
    """Features in a row."""
    max_values: int = 2**27
    """Rows times features; each takes four bytes of memory."""


class Gathering:
    """What has been read of one dataset so far.

    First `columns` is told the names, then `add` and `add_labels` the rows, a block at a time.
    """

    def __init__(self, limits: DatasetLimits) -> None:
        self._limits = limits
        self._wrong: list[Violation] = []
        self._blocks: list[Rows] = []
        self._labels: list[str] = []
        self._known_labels: dict[str | None, str] = {}
        self.feature_names: tuple[str, ...] = ()
        self.label_column: int | None = None
        self.left_out: tuple[str, ...] = ()
        """Columns that hold the index of a DataFrame, and so are no features."""

    def wrong(self, field: str, description: str) -> None:
        """Note a violation. Raises InvalidRequest when there are enough of them."""
        self._wrong.append(Violation(field, description))
        if len(self._wrong) == MAX_VIOLATIONS:
            raise InvalidRequest(self._wrong)

    def columns(self, names: Sequence[str]) -> None:
        """Take the names of all columns in their order, but for an index; raises InvalidRequest if
        they will not do, as nothing can be said of the rows then."""
        for index, name in enumerate(names):
            if is_unnamed(name):
                text = f"is {short(name)}, as pandas names an index without a name; a feature is"
                self.wrong(f"columns[{index}]", f"{text} wanted: leave it out, or rename it")
            if not name or len(name) > LONGEST_TEXT:
                text = f"has a name of {len(name)} characters; 1 to {LONGEST_TEXT} are wanted"
                if not name and index == 0:
                    text += "; an index is left out by pandas with index=False"
                self.wrong(f"columns[{index}]", text)
        for name, count in Counter(names).items():
            if name and count > 1:
                places = ", ".join(str(at) for at, each in enumerate(names) if each == name)
                text = f"the name {short(name)} stands {count} times: columns {places[:80]}"
                self.wrong("columns", text)
        self.label_column = names.index(LABEL) if LABEL in names else None
        self.feature_names = tuple(name for name in names if name != LABEL)
        if not self.feature_names:
            self.wrong("columns", f"hold no feature: one beside {LABEL!r} is wanted")
        self.check_feature_count(len(self.feature_names))
        self.check()

    def check_feature_count(self, count: int) -> None:
        """Raises InvalidRequest when so many features are too many."""
        most = self._limits.max_columns
        if count > most:
            text = f"hold {count} features; at most {most} allowed"
            raise InvalidRequest([*self._wrong, Violation("columns", text)])

    @property
    def max_rows(self) -> int:
        """How many rows of the columns that are known now may come."""
        return min(self._limits.max_rows, self._limits.max_values // len(self.feature_names))

    def check_row_count(self, count: int) -> None:
        """Raises InvalidRequest when so many rows are too many."""
        if count > self.max_rows:
            text = f"are more than {self.max_rows}, the most that are taken with that many columns"
            raise InvalidRequest([*self._wrong, Violation("rows", text)])

    def add(
        self,
        block: NDArray[Any],
        rows: Sequence[int],
        shown: Callable[[int, int], str],
        place: Callable[[int], str],
    ) -> None:
        """Take values [n, features] of the rows with these numbers.

        `shown` tells the value at an index of `block` as its author wrote it, `place` the row at an
        index of it in words. Raises InvalidRequest.
        """
        # Of what is too large it makes infinity, which is looked for anyway.
        with np.errstate(over="ignore", invalid="ignore"):
            narrow: Rows = block.astype(WIRE_DTYPE)
        for row, column in np.argwhere(~np.isfinite(narrow)).tolist():
            name = self.feature_names[column]
            known = f"{place(row)}, column {short(name)} is {shown(row, column)}"
            if np.isfinite(block[row, column]):
                wanted = f"float32 holds {_LARGEST:.3g} at most"
            else:
                wanted = "finite numbers only"
            self.wrong(self.field(rows[row], name), f"{known}; {wanted}")
        self._blocks.append(narrow)

    def add_labels(
        self, labels: Sequence[str | None], rows: Sequence[int], place: Callable[[int], str]
    ) -> None:
        """Take the labels of the rows with these numbers, None where there is none; `place` as for
        `add`. Raises InvalidRequest."""
        known = self._known_labels
        for index, label in enumerate(labels):
            # A million rows share a few texts.
            if label not in known:
                text = (label or "").strip()
                if self._is_wrong_label(text, rows[index], place(index)):
                    continue
                known[label] = text
            self._labels.append(known[label])

    def _is_wrong_label(self, text: str, row: int, place: str) -> bool:
        if text and len(text) <= LONGEST_TEXT:
            return False
        problem = f"has {len(text)} characters; at most {LONGEST_TEXT} allowed"
        self.wrong(self.field(row, LABEL), f"{place}: the label {problem if text else 'is empty'}")
        return True

    @staticmethod
    def field(row: int, name: str) -> str:
        """The path of a value in violations."""
        return f"rows[{row}].{_cut(name)}"

    def gathered(self) -> tuple[Rows, tuple[str, ...] | None]:
        """All rows and, if there are any, their labels. Raises InvalidRequest."""
        self.check()
        if not self._blocks:
            raise InvalidRequest.of("rows", "are missing; at least 1 is wanted")
        rows = np.concatenate(self._blocks)
        return rows, None if self.label_column is None else tuple(self._labels)

    def check(self) -> None:
        """Raises InvalidRequest if anything is wrong so far."""
        if self._wrong:
            raise InvalidRequest(self._wrong)


def short(text: str) -> str:
    """`text` quoted and cut: twenty descriptions with it must fit into an answer's trailer."""
    return _cut(repr(text))


def _cut(text: str) -> str:
    raw = text.encode(errors="replace")
    return text if len(raw) <= _SHOWN_BYTES else raw[:_SHOWN_BYTES].decode(errors="ignore") + "..."
