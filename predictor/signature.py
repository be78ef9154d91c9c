"""Which output of a graph is used, and whether it is a binary classifier. Pure.

What is accepted has probabilities [n, 2], [n, 1] or [n].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trillium.model.declared import DeclaredFacts
from trillium.rows import Rows, are_probabilities

from .feed import FLOATS, NodeArg
from .graph import Unusable

_SUM_SLACK = 1e-2
"""How far a class and its complement may be from adding up to 1; wide enough for float16."""
_NEXT_TO = "in the JSON file next to the model"


def the_output(outputs: Sequence[NodeArg], name: str) -> NodeArg:
    """The output that holds the probabilities: the one called `name`, or the only possible one."""
    if name:
        named = [each for each in outputs if each.name == name]
        if not named:
            there = ", ".join(each.name for each in outputs)
            raise Unusable(f"there is no output {name!r}; there are {there}")
        if named[0].type not in FLOATS:
            raise Unusable(f"output {name!r} is a {named[0].type}; probabilities are floats")
        return named[0]
    fitting = [each for each in outputs if each.type in FLOATS and _may_be_binary(each.shape)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.name for each in fitting)
        raise Unusable(f"outputs {names} could all be the probabilities: give --output-name")
    there = ", ".join(f"{each.name} {each.type} {each.shape}" for each in outputs)
    text = "no output can hold a binary classifier's probabilities, a float tensor [n], [n, 1] or "
    text += "[n, 2]"
    raise Unusable(f"{text}; there are: {there}")


def _may_be_binary(shape: Sequence[int | str | None]) -> bool:
    return len(shape) <= 2 and (
        len(shape) < 2 or not isinstance(shape[1], int) or shape[1] in (1, 2)
    )


def check_facts(facts: DeclaredFacts, feature_count: int) -> None:
    """Raises Unusable unless the facts are enough, and fit the graph."""
    if not facts.class_label:
        text = "which class it recognizes is not declared"
        raise Unusable(f"{text}: give --class-label, or class_label {_NEXT_TO}")
    if facts.class_labels and facts.class_label not in facts.class_labels:
        text = f"class {facts.class_label!r} is none of its ensemble's: "
        raise Unusable(text + ", ".join(facts.class_labels))
    for what, given in (("feature_names", facts.feature_names), ("sample", facts.sample)):
        if given and len(given) != feature_count:
            raise Unusable(f"{what} has {len(given)} entries; the model takes {feature_count}")


def check_shape(result: np.ndarray, row_count: int, output: str) -> None:
    """Raises Unusable unless `result`, of `row_count` rows, is [n, 1] or [n, 2]."""
    if result.ndim != 2 or result.shape[0] != row_count or result.shape[1] not in (1, 2):
        text = f"output {output!r} has shape {list(result.shape)} for {row_count} rows"
        raise Unusable(f"{text}; a binary classifier's is [n], [n, 1] or [n, 2]")


def check_missing(result: np.ndarray, output: str) -> None:
    """Raises Unusable unless rows with missing values gave probabilities."""
    if not np.isfinite(result).all():
        text = "it is declared to take missing values (takes_missing), and a row with one makes"
        raise Unusable(f"{text} output {output!r} NaN or infinite")


def class_column(result: np.ndarray, column: int | None, output: str) -> int:
    """The column of the class in what probe rows gave; `column` is the declared one, if any.

    Raises Unusable unless the values are probabilities, and the column is certain.
    """
    usable = result[np.isfinite(result).all(axis=1)].astype(np.float64)
    if not len(usable):
        raise Unusable(f"output {output!r} is NaN or infinite for every row tried")
    # What float32 cannot hold becomes infinite, which is no probability.
    with np.errstate(over="ignore"):
        single = usable.astype(np.float32)
    if not are_probabilities(single):
        text = f"output {output!r} ranges from {usable.min():g} to {usable.max():g}"
        raise Unusable(f"{text}; probabilities lie in [0, 1]")
    if usable.shape[1] == 1:
        if column not in (None, 0):
            text = f"positive column {column} does not exist"
            raise Unusable(f"{text}: output {output!r} has one column; use 0")
        return 0
    if np.abs(usable.sum(axis=1) - 1).max() > _SUM_SLACK:
        text = f"the two columns of output {output!r} do not add up to 1"
        raise Unusable(f"{text}: they are not a class and its complement")
    if column is None:
        text = f"which of the two columns of output {output!r} is the class is not declared"
        raise Unusable(f"{text}: give --positive-column, or positive_column {_NEXT_TO}")
    return column


def with_missing(rows: Rows) -> Rows:
    """The rows, each without one of its values, a different one where there are enough of them."""
    rows = rows.copy()
    count, width = rows.shape
    rows[np.arange(count), np.arange(count) % width] = np.nan
    return rows
