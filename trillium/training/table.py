"""Labelled tables: what can be trained on, and what is wrong with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from trillium.columns import are_numbered, exact_places, is_unnamed, names_of
from trillium.training.errors import TableRefused

Rows: TypeAlias = npt.NDArray[np.float64]  # [row, feature]
ClassIndices: TypeAlias = npt.NDArray[np.int64]  # [row], positions in `class_labels`
Place: TypeAlias = Callable[[int], str]

HELD_OUT_SHARE = 0.3
LEAST_ROWS = math.ceil(1 / HELD_OUT_SHARE)
"""Of each class, so that at least one of them is held out."""
_MOST = float(np.finfo(np.float32).max)
_SHOWN_NAMES = 20
_SHOWN_TEXT = 60


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows with their classes: finite, two classes or more, `LEAST_ROWS` rows or more of each."""

    rows: Rows
    classes: ClassIndices
    class_labels: tuple[str, ...]
    feature_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Columns of the file that hold the index of a DataFrame, and so are no features."""


def from_matrix(features: Any, labels: Any, feature_names: Sequence[str] = ()) -> Table:
    """A table of `features` [n, k] and `labels` [n].

    Names are those of a DataFrame's columns, or else feature_0, … if not given; given for a
    DataFrame, they say in which order its columns are taken.

    Raises:
        TableRefused: it cannot be trained on.
    """
    try:
        matrix, told = np.asarray(features), np.asarray(labels)
    except ValueError as error:
        raise TableRefused("the rows are not all of the same length: a matrix is wanted") from error
    if matrix.ndim != 2:
        raise TableRefused(f"features have the shape {matrix.shape}: rows × features are wanted")
    if told.shape != (len(matrix),):
        text = f"labels have the shape {told.shape}: one for each of the {len(matrix)} rows"
        raise TableRefused(f"{text} is wanted")
    own = _names_of(features)
    names = [str(name) for name in feature_names] or list(own) or numbered(matrix.shape[1])
    if len(names) != matrix.shape[1]:
        text = f"{len(names)} feature names for {matrix.shape[1]} features"
        raise TableRefused(f"{text}: one for each is wanted")
    _check_names(names)
    _check_features(names)
    columns = {name: matrix[:, at] for name, at in zip(names, _order(own, names), strict=True)}
    return _table(columns, told.tolist(), "labels", _row)


def from_columns(
    names: Sequence[str],
    columns: Sequence[Any],
    label_column: str,
    *,
    drop: Collection[str] = (),
    place: Place | None = None,
) -> Table:
    """A table of columns of equal length, [n] each; all but `label_column` and `drop` are features.

    `place` says where a row stands, "row 3" if not given.

    Raises:
        TableRefused: it cannot be trained on, or has no column of a name.
    """
    _check_names(names)
    for name in (label_column, *drop):
        if name not in names:
            raise TableRefused(f"there is no column {_short(name)}: there are {_listed(names)}")
    by_name = dict(zip(names, columns, strict=True))
    labels = by_name[label_column]
    features = {
        name: column
        for name, column in by_name.items()
        if name != label_column and name not in drop
    }
    _check_features(features)
    return _table(features, _plain(labels), f"column {_short(label_column)}", place or _row)


def numbered(count: int) -> list[str]:
    """Names of features that have none."""
    return [f"feature_{index}" for index in range(count)]


def _table(columns: Mapping[str, Any], labels: list[Any], told: str, place: Place) -> Table:
    if not columns:
        raise TableRefused("no column is left for the features: at least one is needed")
    classes, class_labels = _classes(labels, told, place)
    _check_classes(classes, class_labels, told)
    rows = np.empty((len(classes), len(columns)), dtype="<f8")
    for index, (name, values) in enumerate(columns.items()):
        rows[:, index] = _numbers(name, values, place)
    return Table(rows, classes, class_labels, tuple(columns))


def _names_of(features: Any) -> Sequence[str]:
    """The names of a DataFrame's columns; none where pandas has numbered them."""
    try:
        names = names_of(features)
    except ValueError as error:
        raise TableRefused(f"features: {error}") from error
    return () if are_numbered(names) else names


def _order(own: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where each feature is among columns of these names, which need not have any."""
    try:
        return exact_places(own, names) if own else list(range(len(names)))
    except ValueError as error:
        raise TableRefused(f"feature_names are not the table's: {error}") from error


def _check_features(names: Iterable[str]) -> None:
    """Refuse the index of a DataFrame, which gives the class away where rows are sorted by it."""
    for name in names:
        if is_unnamed(name):
            text = f"column {_short(name)} is what pandas names a column without a name, such as"
            raise TableRefused(
                f"{text} an index: expected features only; rename it if it is a feature, or else "
                "leave it out (--drop) or write the table with index=False"
            )


def _check_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if not name:
            text = f"column {index + 1} has no name: each column needs one"
            hint = "; an index is left out by pandas with index=False" if index == 0 else ""
            raise TableRefused(text + hint)
        if name in names[:index]:
            raise TableRefused(f"two columns are named {_short(name)}: each needs another name")


def _numbers(name: str, values: Any, place: Place) -> Rows:
    """A feature's values, float64 [n]."""
    given = np.asarray(values)
    if given.dtype.kind not in "OSUbiuf":
        _refuse(name, str(given[0]), place(0))
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        row = next(row for row, value in enumerate(given.tolist()) if not _is_number(value))
        _refuse(name, given.tolist()[row], place(row))
    # Written so that a NaN is among them.
    wrong = np.flatnonzero(~(np.abs(numbers) <= _MOST))
    if len(wrong):
        _refuse(name, given.tolist()[wrong[0]], place(int(wrong[0])))
    return numbers


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _refuse(name: str, value: Any, where: str) -> NoReturn:
    what = "is empty" if value is None or value == "" else f"holds {_short(value)}"
    allowed = f"a feature is a finite number, at most {_MOST:.1e} in size; leave out"
    raise TableRefused(
        f"column {_short(name)} {what} in {where}: {allowed} the row, or the whole column"
    )


def _classes(labels: list[Any], told: str, place: Place) -> tuple[ClassIndices, tuple[str, ...]]:
    """Every row's class, and the classes: in numeric order if all are numbers, else as texts."""
    texts: dict[Any, str] = {}
    for row, label in enumerate(labels):
        if label not in texts:
            texts[label] = _class_label(label, told, place(row))
    found = sorted(set(texts.values()))
    if all(_is_whole(text) for text in found):
        found.sort(key=int)
    at = {text: index for index, text in enumerate(found)}
    classes = np.fromiter((at[texts[label]] for label in labels), "<i8", len(labels))
    return classes, tuple(found)


def _class_label(value: Any, told: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = "" if value is None else str(value).strip()
    if not text or isinstance(value, float):
        wanted = "a text or a whole number is wanted"
        raise TableRefused(f"{told}, {where}: {_short(value)} is no class: {wanted}")
    return text


def _check_classes(classes: ClassIndices, class_labels: Sequence[str], told: str) -> None:
    if len(class_labels) < 2:
        found = f"one class alone, {_short(class_labels[0])}," if class_labels else "no row"
        raise TableRefused(f"there is {found} in {told}: at least 2 classes are needed")
    for label, count in zip(class_labels, np.bincount(classes).tolist(), strict=True):
        if count < LEAST_ROWS:
            rows = "1 row" if count == 1 else f"{count} rows"
            text = f"the class {_short(label)} in {told} has {rows}: at least {LEAST_ROWS} of each"
            raise TableRefused(f"{text} class are needed, as {HELD_OUT_SHARE:.0%} are held out")


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _row(index: int) -> str:
    return f"row {index}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN_NAMES]))
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
