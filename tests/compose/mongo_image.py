"""What the compose tests have for a database: the official image, or the test suite's mongod."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import docker

from tests.runtime.engine import IMAGE, client_of
from tests.store.mongod import find_binary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUBSTITUTE = "trillium-mongod:local"
OVERRIDE = "tests/compose/mongod.compose.yaml"


def mongo_variables(engine: str) -> Mapping[str, str]:
    """The variables that have compose.yaml use a database that the engine has, or can get."""
    official = official_image()
    with closing(client_of(engine)) as api:
        if _has(api, official) or (not _has(api, SUBSTITUTE) and _pulled(engine, official)):
            return {}
        if not _has(api, SUBSTITUTE):
            _build(engine)
    files = f"compose.yaml:{OVERRIDE}"
    return {"COMPOSE_FILE": files, "TRILLIUM_TEST_MONGOD_IMAGE": SUBSTITUTE}


def official_image() -> str:
    """The image that compose.yaml uses without an override."""
    found: list[str] = re.findall(r"(?m)^MONGO_IMAGE=(.+)", (ROOT / ".env").read_text())
    return found[0]


def _has(api: docker.APIClient, image: str) -> bool:
    return bool(api.images(image))


def _pulled(engine: str, image: str) -> bool:
    pull = ["docker", "--host", engine, "pull", "--quiet", image]
    try:
        return subprocess.run(pull, check=False, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _build(engine: str) -> None:
    with tempfile.TemporaryDirectory() as context:
        shutil.copy(find_binary(), context)
        shutil.copy(HERE / "mongod_health.py", context)
        # As build_image.sh does: what a build may fetch is what this machine may.
        build = ["docker", "--host", engine, "build", "--network", "host", "--tag", SUBSTITUTE]
        build += [
            "--build-arg",
            f"TRILLIUM_IMAGE={IMAGE}",
            "--file",
            str(HERE / "mongod.Dockerfile"),
        ]
        done = subprocess.run([*build, context], check=False, capture_output=True, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:].decode()
