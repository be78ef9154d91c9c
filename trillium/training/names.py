"""What the artifacts of an ensemble are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from trillium.rpc.uploads import is_name
from trillium.training.errors import TableRefused

_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_ENSEMBLE = 64
_LONGEST_PLAIN = 120
"""The name of a model may have 128, so this leaves room for a number."""


def check_ensemble(name: str) -> None:
    """Raise TableRefused unless models can be named after `name`."""
    if not is_name(name) or len(name) > _LONGEST_ENSEMBLE:
        text = "letters, digits, '.', '_' and '-' are allowed, and no leading '.'"
        raise TableRefused(
            f"the ensemble's name is {name[:80]!r}: at most {_LONGEST_ENSEMBLE} {text}"
        )


def artifact_paths(output: Path, ensemble: str, class_labels: Sequence[str]) -> list[Path]:
    """Where the artifact of each class belongs."""
    return [output / f"{name}.onnx" for name in model_names(ensemble, class_labels)]


def model_names(ensemble: str, class_labels: Sequence[str]) -> list[str]:
    """A name for each class's model, `<ensemble>-<class_label>`; all differ, even in small letters.

    What a name cannot hold becomes "_"; where two would be the same, the later gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    for label in class_labels:
        plain = f"{ensemble}-{_FOREIGN.sub('_', label)}"[:_LONGEST_PLAIN]
        tries = (plain if number == 1 else f"{plain}_{number}" for number in count(1))
        names.append(next(name for name in tries if name.lower() not in taken))
        taken.add(names[-1].lower())
    return names
