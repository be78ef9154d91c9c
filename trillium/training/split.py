"""Which rows are trained on, and which are kept to measure how well that went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from trillium.training.table import HELD_OUT_SHARE, Table

SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The table of an ensemble, and the sorted numbers of its rows in two parts, each with rows of
    every class."""

    ensemble: str
    table: Table
    training: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def split(ensemble: str, table: Table) -> Split:
    """Hold out `HELD_OUT_SHARE` of each class's rows; the same ones at every call."""
    training, held_out = train_test_split(
        np.arange(len(table.classes)),
        test_size=HELD_OUT_SHARE,
        stratify=table.classes,
        random_state=SPLIT_SEED,
    )
    return Split(ensemble, table, np.sort(training), np.sort(held_out))
