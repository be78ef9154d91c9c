"""How to call what is up: lines to be copied."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_CLASSIFY = "trillium.aggregator.v1.AggregatorService/Classify"
_LIST = "trillium.controller.v1.ControllerService/ListDeployments"


def calls(
    aggregator: str,
    controller: str,
    features: Sequence[float],
    gateways: Sequence[str] = (),
    ensemble: str = "",
) -> dict[str, list[str]]:
    """How to classify one row, and to see the deployments: lines by what they are for. `ensemble`
    is named in them, if it is given."""
    values = [digits(value) for value in features]
    elsewhere = "" if aggregator == "127.0.0.1:50051" else f" --address {aggregator}"
    elsewhere += f" --ensemble {ensemble}" if ensemble else ""
    named = f'"ensemble":"{ensemble}",' if ensemble else ""
    made = f'"{aggregator}", ensemble="{ensemble}"' if ensemble else f'"{aggregator}"'
    row = ",".join(values)
    request = f'{{{named}"instances":[{{"features":[{row}]}}]}}'
    path, body = "/predict/label", f'{{"data":[[{row}]]}}'
    if ensemble:
        path, body = f"/v1/ensembles/{ensemble}:classify", f'{{"instances":[[{row}]]}}'
    grpcurl = f"{_tool('grpcurl') or 'grpcurl'} -plaintext"
    missing = "" if _tool("grpcurl") else " (once grpcurl is installed: `make install` does)"
    python, trillium = _tool("python") or sys.executable, _tool("trillium") or "trillium"
    return {
        "Command line": [f"{trillium} classify {' '.join(values)}{elsewhere}"],
        "Python" if python == "python" else f"Python ({python})": [
            "from trillium import Client",
            f"with Client({made}) as client:",
            f"    print(client.classify([{', '.join(values)}]).labels)",
        ],
        f"Aggregator at {aggregator}{missing}": [
            f"{grpcurl} -d '{request}' {aggregator} {_CLASSIFY}"
        ],
        f"Controller at {controller}{missing}": [f"{grpcurl} {controller} {_LIST}"],
        **{
            f"HTTP at http://{gateway}/docs": [
                f"curl http://{gateway}{path} -H 'content-type: application/json' -d '{body}'"
            ]
            for gateway in gateways
        },
    }


def digits(value: float) -> str:
    """A feature with the digits that a float32 has, and no zeros after them."""
    return f"{value:.7g}"


def _tool(name: str) -> str | None:
    """How to call a tool: by where it is installed with this, or by its name if it is on the path,
    which may lead to another Python's; None if it is in neither place."""
    beside, found = Path(sys.executable).with_name(name), shutil.which(name)
    if not beside.exists():
        return name if found else None
    return name if found and Path(found).parent == beside.parent else os.path.relpath(beside)
