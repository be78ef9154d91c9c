"""What the programs of the services are called where this is installed.

In a checkout and in the image they are the top-level packages `predictor`, `aggregator`,
`controller` and `gateway`. A wheel may own no name that another one may own too, so there they are
`trillium_predictor` and so on. Both are in the same folder as the package `trillium`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[2]


def module(program: str) -> str:
    """The module to run for `program`, as "predictor" or "predictor.template"."""
    installed = f"trillium_{program}"
    return installed if (_BESIDE / installed.partition(".")[0]).is_dir() else program


def command(program: str, *words: str, python: str = "") -> tuple[str, ...]:
    """The command line that runs `program`, with this Python unless another one is named."""
    return (python or sys.executable, "-m", module(program), *words)


def environment() -> dict[str, str] | None:
    """The environment to run `program` in; None for this process's own.

    In a checkout, another distribution may own the same name; ours then comes first.
    """
    if module("predictor") != "predictor":
        return None
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_BESIDE), *([rest] if rest else [])])}


def _main(program: str) -> int:
    """The console script of `program`."""
    if module(program) == program:
        sys.path.insert(0, str(_BESIDE))
    status: int = importlib.import_module(f"{module(program)}.__main__").run_program()
    return status


def predictor() -> int:
    """`trillium-predictor`."""
    return _main("predictor")


def aggregator() -> int:
    """`trillium-aggregator`."""
    return _main("aggregator")


def controller() -> int:
    """`trillium-controller`."""
    return _main("controller")


def gateway() -> int:
    """`trillium-gateway`."""
    return _main("gateway")
