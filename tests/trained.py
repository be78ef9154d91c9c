"""Trained ensembles, made once for a whole run of the tests however many workers it has."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from trillium.training import BUILTIN, builtin_table, train_table


def trained(factory: pytest.TempPathFactory, *ensembles: str) -> Path:
    """A new folder with the artifacts of these ensembles, which its caller may change."""
    folder = factory.mktemp("models")
    for ensemble in ensembles:
        shutil.copytree(_shared(factory, ensemble), folder, dirs_exist_ok=True)
    return folder


def _shared(factory: pytest.TempPathFactory, ensemble: str) -> Path:
    own = factory.getbasetemp()
    # The folders of all workers of a run stand side by side.
    everybodys = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = everybodys / f"trained-{ensemble}"
    with (everybodys / f"training-{ensemble}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_suffix(".new")
            train_table(
                builtin_table(ensemble),
                ensemble=ensemble,
                output=making,
                method=BUILTIN[ensemble].method,
            )
            making.rename(folder)
    return folder
