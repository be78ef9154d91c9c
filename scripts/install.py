"""Install what requirements/ pins, and this checkout, into the environment that runs this.

    python scripts/install.py run train      # requirements/run.txt and requirements/train.txt

The files name everything, so nothing is resolved: each package is installed by itself, with its
hash checked, and at the end all of them are checked against each other. An installer that resolves
decides by what the index holds today. Given `coverage==…` and `coverage[toml]`, pip 23, which
Python 3.11 brings, took the newest one, and failed on the day that there was a newer one.

pip installs uv and nothing else; uv installs the rest, in a tenth of pip's time, from the index
that pip is set to.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from ast import literal_eval
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"

_UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "proxy": "ALL_PROXY",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""uv's variable for each setting of pip that locates packages or defines how to reach them."""
_SPLIT_BY_COMMA = ("UV_FIND_LINKS",)


def uv_settings(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Where pip finds packages, as variables for uv; what `environment` sets for uv is kept.

    `pip_config` is what `pip config list` prints. Of all indexes together the best match is taken,
    as pip does it.
    """
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    # The environment overrides files.
    for line in sorted(pip_config.splitlines(), key=lambda each: each.startswith(":env:")):
        key, _, value = line.partition("=")
        if name := _UV_NAMES.get(key.rpartition(".")[2]):
            separator = "," if name in _SPLIT_BY_COMMA else " "
            found[name] = separator.join(str(literal_eval(value)).split())
    return {name: environment.get(name, value) for name, value in found.items()}


def read_uv_settings() -> dict[str, str]:
    """The same for the pip of this environment, as it is set now."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return uv_settings(listed.stdout, os.environ)


def _pinned_uv() -> str:
    [version] = re.findall(r"(?m)^uv==(\S+)", (REQUIREMENTS / "uv.txt").read_text(encoding="utf-8"))
    return str(version)


def _installed_uv() -> str | None:
    try:
        return metadata.version("uv")
    except metadata.PackageNotFoundError:
        return None


def _install_uv() -> None:
    """uv itself, by pip of any age."""
    if _installed_uv() == _pinned_uv():
        return
    print(f"installing uv {_pinned_uv()} ...", flush=True)
    exact = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *exact]
    subprocess.run([*pip, "--requirement", str(REQUIREMENTS / "uv.txt")], check=True)


class _Uv:
    """uv, working on the environment that this runs in."""

    def __init__(self) -> None:
        self._environment = {**os.environ, **read_uv_settings()}

    def pip(self, command: str, *arguments: str) -> None:
        """Run `uv pip COMMAND`; raises CalledProcessError."""
        words = [sys.executable, "-m", "uv", "pip", command, "--python", sys.executable]
        subprocess.run([*words, *arguments], env=self._environment, check=True)


def install(names: Sequence[str]) -> None:
    """Install requirements/NAME.txt for each name, and this checkout; raises CalledProcessError."""
    _install_uv()
    uv = _Uv()
    # What ships as source is built with what build.txt pins, hashes included.
    exact = ["--no-deps", f"--build-constraint={REQUIREMENTS / 'build.txt'}"]
    files = [f"--requirement={REQUIREMENTS / name}.txt" for name in names]
    uv.pip("install", "--require-hashes", *exact, *files)
    uv.pip("install", *exact, "--editable", str(ROOT))
    uv.pip("check")


def main() -> int:
    """Install what the command line names; the answer is the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="+", choices=["run", "train", "dev"])
    try:
        install(parser.parse_args().name)
    except subprocess.CalledProcessError as error:
        print(f"not installed: {' '.join(error.cmd[2:5])} … failed; see above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
