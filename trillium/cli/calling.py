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
    aggregator: str, controller: str, features: Sequence[float], gateways: Sequence[str] = ()
) -> dict[str, list[str]]:
    """How to classify one row, and to see the deployments: lines by what they are for."""
    values = [digits(value) for value in features]
    elsewhere = "" if aggregator == "127.0.0.1:50051" else f" --address {aggregator}"
    request = f'{{"instances":[{{"features":[{",".join(values)}]}}]}}'
    grpcurl = f"{_tool('grpcurl')} -plaintext"
    return {
        f"Aggregator at {aggregator}": [f"{grpcurl} -d '{request}' {aggregator} {_CLASSIFY}"],
        "Python" if _tool("python") == "python" else f"Python ({_tool('python')})": [
            "from trillium import Client",
            f'with Client("{aggregator}") as client:',
            f"    print(client.classify([{', '.join(values)}]).labels)",
        ],
        "Command line": [f"{_tool('trillium')} classify {' '.join(values)}{elsewhere}"],
        f"Controller at {controller}": [f"{grpcurl} {controller} {_LIST}"],
        **{
            f"HTTP at http://{gateway}/docs": [
                f"curl http://{gateway}/predict/label -H 'content-type: application/json' "
                f"-d '{{\"data\":[[{','.join(values)}]]}}'"
            ]
            for gateway in gateways
        },
    }


def digits(value: float) -> str:
    """A feature with the digits that a float32 has, and no zeros after them."""
    return f"{value:.7g}"


def _tool(name: str) -> str:
    """How to call a tool: by its name if it is on the path, else by where it is installed."""
    if shutil.which(name):
        return name
    beside = Path(sys.executable).with_name(name)
    return os.path.relpath(beside) if beside.exists() else name
