"""How rows become what a graph takes: its inputs, their types, and the rows of a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trillium.model.declared import DeclaredFacts
from trillium.rows import Rows

from .graph import Unusable

Tensors: TypeAlias = Mapping[str, NDArray[Any]]

FLOATS: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "tensor(float16)": ("FP16", np.dtype(np.float16)),
    "tensor(float)": ("FP32", np.dtype(np.float32)),
    "tensor(double)": ("FP64", np.dtype(np.float64)),
}
_WHOLE: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "tensor(int32)": ("INT32", np.dtype(np.int32)),
    "tensor(int64)": ("INT64", np.dtype(np.int64)),
    "tensor(bool)": ("BOOL", np.dtype(np.bool_)),
}
_TYPES = {**FLOATS, **_WHOLE}
_PROBE_ROWS = 64
_PROBE_VALUES = 2**20
_GOLDEN_RATIO = (1 + 5**0.5) / 2
_MAX_FEATURES = 2**20
"""Above any real model's; a wider one could exhaust the memory."""
_MOST_WHOLE = 2.0**24
"""float32, as which rows travel, has every whole number up to here, and no odd one beyond."""
_NEXT_TO = "in the JSON file next to the model"


class NodeArg(Protocol):
    """An input or output of a graph, as ONNX Runtime describes it."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | str | None]: ...


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a graph, and the columns of a row that go there."""

    name: str
    dtype: np.dtype[Any]
    columns: slice

    @property
    def is_whole(self) -> bool:
        """Whether it takes whole numbers only, or truth values."""
        return self.dtype.kind in "ib"


@dataclass(frozen=True, slots=True)
class Feed:
    """All inputs of a graph, which the columns of a row fill in their order."""

    inputs: tuple[Input, ...]
    feature_count: int
    dtype: str
    """Of the first input, in the words of `Model.input_dtype`."""
    batch: int | None = None
    """Rows that the graph takes at a time, if it takes no other number."""

    def tensors(self, rows: Rows) -> Iterator[tuple[Tensors, int]]:
        """What each run takes, and how many of its rows are meant; the others fill a batch up.

        Raises ValueError for rows of another width.
        """
        if self.batch is None:
            yield self._cut(rows), len(rows)
            return
        for start in range(0, len(rows), self.batch):
            some = rows[start : start + self.batch]
            missing = self.batch - len(some)
            padded = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            yield self._cut(padded), len(some)

    @property
    def has_whole(self) -> bool:
        """Whether some input takes whole numbers only."""
        return any(each.is_whole for each in self.inputs)

    def unfit(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Which rows hold a number that an input of whole numbers cannot take; None if none do."""
        wrong = np.zeros(len(rows), np.bool_)
        for each in self.inputs:
            if not each.is_whole:
                continue
            part = rows[:, each.columns]
            fits = np.abs(part) <= (1 if each.dtype.kind == "b" else _MOST_WHOLE)
            fits &= part == np.rint(part)
            if each.dtype.kind == "b":
                fits &= part >= 0
            wrong |= ~fits.all(axis=1)
        return wrong if wrong.any() else None

    def probe_rows(self, sample: Sequence[float]) -> Rows:
        """Rows that most models can score: positive, of a few magnitudes, and the sample if any.

        Whole numbers may be places in a table of the model, so they are the sample's, or 0 and 1.
        """
        count = max(2, min(_PROBE_ROWS, _PROBE_VALUES // self.feature_count))
        # Multiples of an irrational number spread evenly; numpy.random would take 2 MB to import.
        spread = np.arange(1, count * self.feature_count + 1) * _GOLDEN_RATIO % 1
        even = spread.astype(np.float32).reshape(count, self.feature_count)
        rows: Rows = 0.1 + 0.9 * even
        rows *= np.geomspace(0.1, 100, count, dtype=np.float32)[:, None]
        for each in self.inputs:
            if each.is_whole:
                chosen = each.columns
                rows[:, chosen] = sample[chosen] if sample else np.rint(even[:, chosen])
        if sample:
            rows[0] = sample
        return rows

    def _cut(self, rows: Rows) -> Tensors:
        if rows.shape[1] != self.feature_count:
            raise ValueError(f"rows have {rows.shape[1]} columns; expected {self.feature_count}")
        return {each.name: cast(rows[:, each.columns], each.dtype) for each in self.inputs}


def the_feed(inputs: Sequence[NodeArg], facts: DeclaredFacts) -> Feed:
    """How rows fill the inputs of a graph. Raises Unusable if they cannot."""
    batches = {each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], int)}
    if len(batches) > 1:
        raise Unusable(f"its inputs take {', '.join(map(str, sorted(batches)))} rows at a time")
    batch = batches.pop() if batches else None
    if batch is not None and batch < 1:
        raise Unusable(f"its inputs take {batch} rows at a time")
    declared = len(facts.feature_names) or len(facts.sample)
    widths = [_width(each, declared if len(inputs) == 1 else 0) for each in inputs]
    count = sum(widths)
    if count > _MAX_FEATURES:
        raise Unusable(f"it takes {count} features; expected at most {_MAX_FEATURES}")
    made, start = [], 0
    for each, width in zip(inputs, widths, strict=True):
        made.append(Input(each.name, _TYPES[each.type][1], slice(start, start + width)))
        start += width
    if not made:
        raise Unusable("it has no input; expected rows [n, features]")
    return Feed(tuple(made), count, _TYPES[inputs[0].type][0], batch)


def names_of_inputs(inputs: Sequence[NodeArg], feed: Feed) -> tuple[str, ...]:
    """The names of the features where each one has an input of its own; empty otherwise."""
    if len(inputs) < 2 or len(inputs) != feed.feature_count:
        return ()
    return tuple(each.name for each in inputs)


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`values` as `dtype`; values too large for it become infinite, without a warning."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype)


def _width(each: NodeArg, declared: int) -> int:
    """How many features an input takes."""
    if each.type not in _TYPES:
        raise Unusable(f"input {each.name!r} is a {each.type}; expected one of {', '.join(_TYPES)}")
    if len(each.shape) != 2:
        raise Unusable(f"input {each.name!r} has shape {each.shape}; expected [n, features]")
    width = each.shape[1] if isinstance(each.shape[1], int) else declared
    if width < 1:
        text = f"the number of features of input {each.name!r} is unknown"
        raise Unusable(f"{text}: give feature_names or a sample {_NEXT_TO}")
    return width
