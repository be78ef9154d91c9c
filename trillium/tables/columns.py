"""Columns of tables by name: which ones are no features, and in which order a model takes them.

Pure; every reader of tables keeps these rules, so that a file means the same to all of them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_PANDAS = b"pandas"
"""Key of what pandas and pyarrow write into a Parquet file's metadata."""
_INDEX_LEVEL = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?(\.\d+)*")
_SIGNS = re.compile(r"[\W_]+")
_SHOWN_NAMES = 10
_SHOWN_CHARACTERS = 40


def index_columns(names: Sequence[str], metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """The columns of a Parquet file that hold a DataFrame's index and so are no features.

    `metadata` is the Arrow schema's. Columns with pandas' own name for an index without a name
    count even without it: other tools copy the column and not the metadata.
    """
    named = _named_by_pandas(metadata or {})
    return tuple(name for name in names if name in named or _INDEX_LEVEL.fullmatch(name))


def _named_by_pandas(metadata: Mapping[bytes, bytes]) -> frozenset[str]:
    try:
        content = json.loads(metadata.get(_PANDAS, b"{}"))
        # A RangeIndex is an object here, since it takes no column.
        return frozenset(each for each in content["index_columns"] if isinstance(each, str))
    except (ValueError, RecursionError, KeyError, TypeError):
        return frozenset()


def is_unnamed(name: str) -> bool:
    """Whether pandas made the name up for a column without one, as a CSV file's index is."""
    return _UNNAMED.fullmatch(name) is not None


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, each once."""
    seen = dict.fromkeys(names, 0)
    for name in names:
        seen[name] += 1
    return [name for name, count in seen.items() if count > 1]


def names_of(table: object) -> tuple[str, ...]:
    """The names of the columns of a DataFrame, or of a row of one; empty if it has none.

    Whatever has the names in `column_names` (pyarrow), `columns` (pandas, polars), `index` (a row
    of pandas) or `_fields` (a named tuple) counts, and a list of such rows, whose names must be the
    same. Raises ValueError if they are not.
    """
    if isinstance(table, (list, tuple)) and not hasattr(table, "_fields"):
        return _names_of_rows(table)
    for attribute in ("column_names", "columns", "index", "_fields"):
        found = getattr(table, attribute, None)
        if isinstance(found, Iterable):
            return tuple(map(str, found))
    return ()


def _names_of_rows(rows: Sequence[object]) -> tuple[str, ...]:
    """The names of all rows; looks no further if the first one has none, as most have."""
    names = names_of(rows[0]) if rows and not isinstance(rows[0], (list, float, int)) else ()
    if names:
        for index, row in enumerate(rows):
            if names_of(row) != names:
                text = f"row {index} has columns {listed(names_of(row)) or 'without names'}"
                raise ValueError(f"{text}, and row 0 has {listed(names)}: expected the same in all")
    return names


def are_numbered(names: Sequence[str]) -> bool:
    """Whether pandas has numbered columns that have no names: 0, 1, 2, …"""
    return list(names) == [str(number) for number in range(len(names))]


def places(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of the `wanted` columns is in `names`, whatever their order; others are left out.

    A name that is not there may be written with other signs between its words, as "sepal length
    (cm)" for "sepal_length_cm". Raises ValueError, which names the columns that are missing or
    stand more than once.
    """
    at = {name: index for index, name in enumerate(names)}
    if not all(name in at for name in wanted):
        at = _in_other_signs(names, wanted)
    asked = set(wanted)
    again = [name for name in repeated(names) if name in asked]
    if again:
        raise ValueError(f"more than one column is named {listed(again)}: expected each name once")
    missing = [name for name in wanted if name not in at]
    if missing:
        text = f"no column is named {listed(missing)}: expected the model's features"
        raise ValueError(f"{text} {listed(wanted)} in any order, got {listed(names)}")
    return [at[name] for name in wanted]


def _in_other_signs(names: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Where each of the `wanted` columns is, by its words if not by its name.

    Only words that no other column and no other wanted one has are certain.
    """
    at = {name: index for index, name in enumerate(names)}
    asked = set(wanted)
    words, wanted_words = list(map(_words, names)), list(map(_words, wanted))
    of_words = {its_words: index for index, its_words in enumerate(words)}
    counts, wanted_counts = Counter(words), Counter(wanted_words)
    for name, its_words in zip(wanted, wanted_words, strict=True):
        if name not in at and its_words and counts[its_words] == wanted_counts[its_words] == 1:
            index = of_words[its_words]
            if names[index] not in asked:
                at[name] = index
    return at


def _words(name: str) -> str:
    return _SIGNS.sub("_", name).strip("_")


def exact_places(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """As `places`, but no other column may be among `names`. Raises ValueError."""
    problem = None
    try:
        found = places(names, wanted)
    except ValueError as error:
        problem = error
        asked = set(wanted)
        found = [index for index, name in enumerate(names) if name in asked]
    taken = set(found)
    more = [name for index, name in enumerate(names) if index not in taken]
    if more:
        text = f"columns that the model has no feature for: {listed(more)}; expected"
        raise ValueError(f"{text} {listed(wanted)} in any order, got {listed(names)}") from problem
    if problem is not None:
        raise problem
    return found


def listed(names: Sequence[str]) -> str:
    """Names for a person, cut to what a sentence can hold."""
    shown = ", ".join(
        repr(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}...")
        for name in names[:_SHOWN_NAMES]
    )
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
