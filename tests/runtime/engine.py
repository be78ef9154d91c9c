"""The engines that tests use: one that is in use, and one of their own to do harm to."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors

from controller.runtime.docker_engine import check_listening
from controller.runtime.docker_settings import DockerSettings

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts/engine"
IMAGE = os.environ.get("TRILLIUM_IMAGE", "trillium:local")
SERVING_IMAGE = os.environ.get("TRILLIUM_SERVING_IMAGE", "trillium-serving:local")
HOW = "run scripts/engine/start_engine.sh and scripts/engine/build_image.sh (make test-all does)"


def client_of(base_url: str) -> docker.APIClient:
    """A client for what the tests look at themselves; the caller closes it."""
    check_listening(base_url)
    return docker.APIClient(base_url=base_url, version="auto", timeout=30)


def find_engine() -> str:
    """The engine to test on. Fails, and never skips, when there is none with the images."""
    folder = Path(os.environ.get("TRILLIUM_ENGINE_DIR", ROOT / ".engine")).resolve()
    candidates = (
        os.environ.get("DOCKER_HOST", ""),
        "unix:///var/run/docker.sock",
        f"unix://{folder}/docker.sock",
    )
    problems = []
    for base_url in filter(None, candidates):
        try:
            with closing(client_of(base_url)) as client:
                for image in (IMAGE, SERVING_IMAGE):
                    client.inspect_image(image)  # type: ignore[no-untyped-call]
            return base_url
        except (docker.errors.DockerException, OSError) as error:
            problems.append(f"{base_url}: {error}")
    raise AssertionError(
        f"no engine has the images {IMAGE} and {SERVING_IMAGE}: {HOW}; " + "; ".join(problems)
    )


def new_owner() -> str:
    """An owner that nobody else has, in this run or another on the same engine."""
    return f"test{secrets.token_hex(6)}"


def settings_for(base_url: str, **others: Any) -> DockerSettings:
    """Settings with an owner of their own."""
    values = {"image": SERVING_IMAGE, "owner": new_owner(), **others}
    return DockerSettings(base_url=base_url, **values)


def ours(client: docker.APIClient, owner: str) -> list[dict[str, Any]]:
    """What the engine lists with that owner's label."""
    return list(client.containers(all=True, filters={"label": [f"trillium.owner={owner}"]}))


def remove_all(base_url: str, owner: str) -> None:
    """Remove that owner's containers, and see that none is left."""
    with closing(client_of(base_url)) as client:
        for entry in ours(client, owner):
            with suppress(docker.errors.NotFound):
                client.remove_container(entry["Id"], v=True, force=True)
        assert ours(client, owner) == []


@dataclass(frozen=True, slots=True)
class ApartEngine:
    """An engine in a network namespace of its own, with the image."""

    folder: Path

    @property
    def base_url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @property
    def network(self) -> Path:
        """The network namespace, which outlives the engine."""
        return self.folder / "net"

    def start(self, *arguments: str) -> None:
        """Start it, if it does not run; with more arguments for dockerd."""
        subprocess.run(
            [SCRIPTS / "start_engine.sh", "--apart", self.folder, "--", *arguments],
            check=True,
            timeout=100,
            stdout=subprocess.DEVNULL,
        )

    def stop(self, *more: str) -> None:
        """End it and all that is its own; its data stay, unless `more` says --purge."""
        script = SCRIPTS / "stop_engine.sh"
        subprocess.run([script, *more, self.folder], check=True, timeout=100)

    @property
    def pid(self) -> int:
        """Of dockerd."""
        return int((self.folder / "dockerd.pid").read_text())

    def send(self, number: signal.Signals) -> None:
        """Send dockerd a signal."""
        os.kill(self.pid, number)

    def mounts(self) -> list[str]:
        """What is mounted in its folder."""
        lines = Path("/proc/mounts").read_text().splitlines()
        return [line for line in lines if f" {self.folder}/" in line]


@contextmanager
def engine_apart(folder: Path, image_from: str) -> Iterator[ApartEngine]:
    """Such an engine, ended and deleted afterwards; its images are copied from another engine."""
    engine = ApartEngine(folder)
    try:
        engine.start()
        _copy_images(image_from, engine.base_url)
        yield engine
    finally:
        engine.stop("--purge")


def _copy_images(source: str, target: str) -> None:
    """Copy both images at once, since they share most of their layers."""
    save = ["docker", "--host", source, "save", IMAGE, SERVING_IMAGE]
    load = ["docker", "--host", target, "load", "--quiet"]
    with subprocess.Popen(save, stdout=subprocess.PIPE) as saving:
        subprocess.run(
            load, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True, timeout=300
        )
    assert saving.returncode == 0
