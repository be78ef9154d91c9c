"""The notebook runs from top to bottom, shows what it is kept with, and leaves nothing behind."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.docs.pages import ROOT
from tests.runtime.serving import pids_with

NOTEBOOK = ROOT / "notebooks" / "iris.ipynb"


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def texts(notebook: Any) -> list[str]:
    """What the cells print, and the values that they end with."""
    return [
        output.text if output.output_type == "stream" else output.data["text/plain"]
        for output in outputs(notebook)
    ]


def plots(notebook: Any) -> list[bytes]:
    """The PNGs."""
    every = [output.get("data", {}).get("image/png") for output in outputs(notebook)]
    return [base64.b64decode(encoded) for encoded in every if encoded is not None]


@pytest.fixture
def kept() -> Any:
    """The notebook as it is committed."""
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.thorough
def test_it_runs_to_its_end_and_shows_what_it_is_kept_with(
    environment: dict[str, str], kept: Any, tmp_path: Path
) -> None:
    # Not pytest's own folder: its path is too long for sockets.
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        again = tmp_path / "again.ipynb"
        done = subprocess.run(
            [sys.executable, "scripts/run_notebook.py", str(NOTEBOOK), "--output", str(again)],
            cwd=ROOT,
            env={**environment, "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert pids_with(folder) == []
        assert list(Path(folder).iterdir()) == []
    shown = nbformat.read(again, as_version=4)
    assert texts(shown) == texts(kept)
    (accuracy,) = re.findall(r"are right: accuracy (\d\.\d+)", "".join(texts(shown)))
    assert float(accuracy) >= 0.9
    assert [len(plot) > 10_000 for plot in plots(shown)] == [True, True]


def test_it_is_kept_with_small_plots_and_no_path_of_a_machine(kept: Any) -> None:
    assert len(plots(kept)) == 2
    assert sum(map(len, plots(kept))) < 500_000
    assert NOTEBOOK.stat().st_size < 500_000
    assert not re.search(r"/(home|root|tmp|work|usr|Users)\b", "".join(texts(kept)))
    assert [cell.execution_count for cell in kept.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in kept.cells))
    )


def test_a_cell_that_fails_fails_the_run(environment: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.ipynb"
    cells = [nbformat.v4.new_code_cell("1 / 0", id="broken")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), broken)
    before = broken.read_bytes()
    done = subprocess.run(
        [sys.executable, "scripts/run_notebook.py", str(broken)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert broken.read_bytes() == before
