"""Trained ensembles, and all else that is made once for a whole run of the tests however many
workers it has."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trillium.training import BUILTIN, builtin_table, train_table


def trained(factory: pytest.TempPathFactory, *ensembles: str) -> Path:
    """A new folder with the artifacts of these ensembles, which its caller may change."""
    folder = factory.mktemp("models")
    for ensemble in ensembles:

        def train(output: Path, ensemble: str = ensemble) -> None:
            method = BUILTIN[ensemble].method
            train_table(builtin_table(ensemble), ensemble=ensemble, output=output, method=method)

        made = made_once(factory, f"trained-{ensemble}", train)
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that the first worker makes, and the others wait for; nobody may change it.

    What `make` raises is raised, and the next one to ask makes it.
    """
    own = factory.getbasetemp()
    # The folders of all workers of a run stand side by side.
    everybodys = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = everybodys / name
    with (everybodys / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder
