"""The tables that scikit-learn bundles, so that training them needs no file and no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trillium.training.methods import Method
from trillium.training.packages import check_packages
from trillium.training.table import Table


@dataclass(frozen=True, slots=True)
class Builtin:
    """What to train on, how, and how good it has to be."""

    load: str
    """Name of the function in `sklearn.datasets`."""
    method: Method
    accuracy_floor: float
    """Lowest combined held-out accuracy (0 to 1) that may be published."""


BUILTIN: Mapping[str, Builtin] = {
    "iris": Builtin("load_iris", Method.CURVED, accuracy_floor=0.93),
    "digits": Builtin("load_digits", Method.LINEAR, accuracy_floor=0.93),
    "wine": Builtin("load_wine", Method.LINEAR, accuracy_floor=0.93),
}


def builtin_table(ensemble: str) -> Table:
    """The table of `ensemble`, a key of `BUILTIN`; the same at every call.

    Raises:
        PackagesMissing: the extra `train` is not installed.
    """
    check_packages()
    from sklearn import datasets

    bunch = getattr(datasets, BUILTIN[ensemble].load)()
    return Table(
        rows=np.ascontiguousarray(bunch.data, dtype="<f8"),
        classes=np.ascontiguousarray(bunch.target, dtype="<i8"),
        class_labels=tuple(str(name) for name in bunch.target_names),
        feature_names=tuple(
            name.replace(" (cm)", "_cm").replace(" ", "_") for name in bunch.feature_names
        ),
    )
