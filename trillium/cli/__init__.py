"""The command `trillium`, which needs the packages of the extra `cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line; ends the process with status 0, 1 (failed) or 2 (usage)."""
    missing = [name for name in ("rich", "typer") if find_spec(name) is None]
    if missing:
        # Not the extra by its name: on the public index, the name trillium is another project's.
        text = f"the command needs {' and '.join(missing)}, not installed here (the extra cli)"
        sys.exit(f"trillium: {text}; install with: pip install {' '.join(missing)}")
    from trillium.cli.commands import app

    app(prog_name="trillium")
