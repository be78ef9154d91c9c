"""Runs a notebook from top to bottom in a fresh kernel, and writes it with what it shows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

CELL_S = 120
"""How long a cell may take on a busy machine."""
# What a kernel reports about itself differs from machine to machine.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(source: Path, output: Path) -> None:
    """Run `source` in its folder and write it to `output`, which may be the same.

    Raises:
        CellExecutionError: a cell raised; nothing was written.
        CellTimeoutError: a cell took longer than `CELL_S` seconds; nothing was written.
    """
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(source.parent)}},
        timeout=CELL_S,
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output", type=Path, help="where to write it, if not in its place")
    options = parser.parse_args(arguments)
    try:
        run(options.notebook, options.output or options.notebook)
    except (CellExecutionError, CellTimeoutError) as error:
        print(f"{options.notebook}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
