"""The peers' environments: one for each file in requirements/peers, made when it is first needed.

python -m bench.peers.install [NAME...]
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT

ENVIRONMENTS = ROOT / ".venv-peers"
REQUIREMENTS = ROOT / "requirements" / "peers"
_INSTALL_S = 900.0


class NotInstalled(Exception):
    """An environment that could not be made, and why."""


def installed(name: str) -> Path:
    """The environment of that name with exactly what its file pins; raises NotInstalled."""
    environment, pins = ENVIRONMENTS / name, REQUIREMENTS / f"{name}.txt"
    done = environment / "installed"
    state = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if done.exists() and done.read_text() == state:
        return environment
    uv, python = f"{sys.prefix}/bin/uv", f"{environment}/bin/python"
    _run(uv, "venv", "--clear", "--python", sys.executable, str(environment))
    # Else every start compiles anew where Python may not write what it has compiled.
    options = ["--require-hashes", "--compile-bytecode"]
    _run(uv, "pip", "sync", *options, "--python", python, str(pins))
    done.write_text(state)
    return environment


def _run(*command: str) -> None:
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{command[1]} took longer than {_INSTALL_S:g} s") from error
    if ended.returncode:
        raise NotInstalled(" ".join(ended.stderr.split())[-500:])


def main(names: Sequence[str]) -> int:
    """Make the environments; the answer is how many could not be made."""
    failures = 0
    for name in names or sorted(path.stem for path in REQUIREMENTS.glob("*.txt")):
        try:
            print(f"{name}: {installed(name)}")
        except NotInstalled as error:
            failures += 1
            print(f"{name}: not installed: {error}", file=sys.stderr)
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
