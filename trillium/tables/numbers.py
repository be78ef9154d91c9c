"""The one grammar of numbers in tables: what a text or a value of some library stands for. Pure.

A number is written in ASCII digits, with a point or, where that is declared, a decimal comma: "5",
"-.5", "4e-1". "5_1", "1,000", "½" and "0x10" are none. Nothing at all and the word nan are missing
values, which are NaN; inf and infinity are numbers that no row may hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.float64]  # [n]
Marks: TypeAlias = npt.NDArray[np.bool_]  # [n]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_SPACE = " \t\r\n\f\v"
_NUMERIC = "buif"
"""Kinds of NumPy's types that are numbers; a truth value is 0 or 1."""


def number(text: str, decimal: str = ".") -> float:
    """The number that a text is, with white space around it or not.

    What is too large for a float is infinite. Raises ValueError.
    """
    bare = text.strip(_SPACE)
    if decimal != ".":
        # A point would stand between thousands there: "1.234,5".
        bare = bare.replace(decimal, ".") if "." not in bare else ""
    if _NUMBER.fullmatch(bare) is None and _WORD.fullmatch(bare) is None:
        raise ValueError(text)
    return float(bare)


def is_number(text: str, decimal: str = ".") -> bool:
    """Whether `number` takes the text."""
    try:
        number(text, decimal)
    except ValueError:
        return False
    return True


def are_numbers(cells: Iterable[str], decimal: str = ".") -> bool:
    """Whether a line of CSV holds numbers only: a row, and no header."""
    return all(is_number(cell, decimal) for cell in cells)


def numbers_of(values: Any, decimal: str = ".") -> tuple[Numbers, Marks | None]:
    """A column as numbers, and which of its values are none; None if all are.

    Takes texts, an array, or a list of whatever libraries put into columns: numbers, truth values,
    decimals, texts. Missing values (None, NaT, masked ones, pandas' NA) are NaN, and what is no
    number is 0.
    """
    if isinstance(values, np.ma.MaskedArray):
        numbers, wrong = numbers_of(values.data, decimal)
        mask = np.ma.getmaskarray(values)
        numbers[mask] = np.nan
        return numbers, None if wrong is None else wrong & ~mask
    if isinstance(values, np.ndarray) and values.dtype.kind in _NUMERIC:
        return values.astype(np.float64), None
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    quick = _plain_texts(cells) if decimal == "." else None
    if quick is not None:
        return quick, None
    return _each(cells, decimal)


def is_missing(value: Any) -> bool:
    """Whether a value of a column stands for nothing."""
    if isinstance(value, str):
        return not value.strip(_SPACE)
    if value is None or value is np.ma.masked:
        return True
    # NaN, NaT and pandas' NA are the values that differ from themselves, or refuse to be compared.
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _plain_texts(cells: Sequence[Any]) -> Numbers | None:
    """Texts as numbers if Python's grammar can only mean ours; None if that is not certain."""
    try:
        joined = "".join(cells)
        if "_" in joined or not joined.isascii():
            return None
        return np.array(list(map(float, cells)), np.float64)
    except (TypeError, ValueError):
        return None


def _each(cells: Sequence[Any], decimal: str) -> tuple[Numbers, Marks | None]:
    numbers = np.zeros(len(cells), np.float64)
    wrong = np.zeros(len(cells), np.bool_)
    for index, cell in enumerate(cells):
        try:
            numbers[index] = _one(cell, decimal)
        except (TypeError, ValueError):
            wrong[index] = True
    return numbers, wrong if wrong.any() else None


def _one(cell: Any, decimal: str) -> float:
    if is_missing(cell):
        return float("nan")
    if isinstance(cell, str):
        return number(cell, decimal)
    if isinstance(cell, (bool, np.bool_, int, float, np.integer, np.floating, Decimal)):
        try:
            return float(cell)
        except OverflowError:
            return float("inf") if cell > 0 else float("-inf")
    raise TypeError(cell)
