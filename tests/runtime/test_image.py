"""The image itself, on a real engine: what it holds, and how its services start and stop."""

from __future__ import annotations

import base64
import io
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.runtime.engine import IMAGE, SCRIPTS, SERVING_IMAGE
from tests.waiting import eventually

pytestmark = pytest.mark.engine

MODEL = "models/iris-setosa.onnx"
HARDENED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "size=16m"},
}


@contextmanager
def running(
    api: docker.APIClient,
    command: list[str],
    *,
    entrypoint: list[str] | None = None,
    image: str = SERVING_IMAGE,
) -> Iterator[str]:
    """The id of a started container with a read-only root, which is removed afterwards."""
    host: Any = api.create_host_config(network_mode="none", **HARDENED)
    made = api.create_container(image, command, entrypoint=entrypoint, host_config=host)["Id"]
    try:
        api.start(made)
        yield made
    finally:
        api.remove_container(made, force=True)


def output_of(api: docker.APIClient, *command: str, image: str = IMAGE) -> str:
    """What a command in the image prints; it must succeed."""
    words = list(command[1:])
    with running(api, words, entrypoint=[command[0]], image=image) as container:
        status = api.wait(container, timeout=30)["StatusCode"]
        output = bytes(api.logs(container)).decode()
    assert status == 0, output
    return output


async def test_a_predictor_is_healthy_on_a_read_only_root_and_drains_at_a_sigterm(
    api: docker.APIClient,
) -> None:
    with running(api, ["predictor", "--model", MODEL]) as container:

        def is_healthy() -> bool:
            state = api.inspect_container(container)["State"]
            return bool(state["Health"]["Status"] == "healthy")

        await eventually(is_healthy, 60)
        api.stop(container, timeout=20)
        assert api.inspect_container(container)["State"]["ExitCode"] == 0
        assert b'"draining"' in api.logs(container)


async def test_a_predictor_without_a_model_is_not_healthy(api: docker.APIClient) -> None:
    probe = ["trillium.healthcheck", "127.0.0.1:50061"]
    with running(api, ["predictor"]) as container:

        def says(word: str) -> bool:
            made = api.exec_create(container, ["python", "-m", *probe])["Id"]
            return word in bytes(api.exec_start(made)).decode()

        await eventually(lambda: says("NOT_SERVING"), 30)


def test_it_runs_as_nobody_in_particular(api: docker.APIClient) -> None:
    assert output_of(api, "python", "-c", "import os; print(os.getuid(), os.getgid())") == (
        "10001 10001\n"
    )
    assert api.inspect_image(IMAGE)["Config"]["User"] == "10001:10001"  # type: ignore[no-untyped-call]


TRAINING = ("sklearn", "skl2onnx", "scipy", "pip", "setuptools", "pytest")
NOT_FOR_SERVING = ("controller", "docker", "gateway", "onnx", "pyarrow", "pymongo", "rich", "typer")


def present(api: docker.APIClient, names: tuple[str, ...], image: str) -> str:
    """Which of these packages an image has, as it prints them."""
    program = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    return output_of(api, "python", "-c", program, image=image)


def test_it_holds_the_models_and_not_what_made_them(api: docker.APIClient) -> None:
    assert present(api, TRAINING, IMAGE) == "[]\n"
    models = output_of(api, "python", "-c", "import os; print(sorted(os.listdir('models')))")
    assert models.count(".onnx") == 3
    which = "import shutil; print([c for c in ('gcc', 'cc', 'g++', 'make') if shutil.which(c)])"
    assert output_of(api, "python", "-c", which) == "[]\n"


def test_all_services_can_be_imported_where_nothing_can_be_written(api: docker.APIClient) -> None:
    assert output_of(api, "python", "-m", "predictor", "--help")
    assert output_of(api, "python", "-m", "aggregator", "--help")
    assert output_of(api, "python", "-m", "trillium", "--help")


def test_the_serving_image_has_what_predictors_and_aggregators_need_and_no_more(
    api: docker.APIClient,
) -> None:
    assert present(api, TRAINING + NOT_FOR_SERVING, SERVING_IMAGE) == "[]\n"
    assert output_of(api, "python", "-m", "predictor", "--help", image=SERVING_IMAGE)
    assert output_of(api, "python", "-m", "aggregator", "--help", image=SERVING_IMAGE)
    sizes = {each: api.inspect_image(each)["Size"] for each in (SERVING_IMAGE, IMAGE)}  # type: ignore[no-untyped-call]
    assert sizes[SERVING_IMAGE] < 0.7 * sizes[IMAGE], sizes


def test_the_image_of_all_services_is_the_serving_image_and_more(api: docker.APIClient) -> None:
    layers = [
        api.inspect_image(each)["RootFS"]["Layers"]  # type: ignore[no-untyped-call]
        for each in (SERVING_IMAGE, IMAGE)
    ]
    assert layers[1][: len(layers[0])] == layers[0]


def test_it_says_what_it_is_and_how_it_is_asked_for_its_health(api: docker.APIClient) -> None:
    config = api.inspect_image(IMAGE)["Config"]  # type: ignore[no-untyped-call]
    assert config["Labels"]["org.opencontainers.image.title"] == "Trillium"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Healthcheck"]["Test"][:4] == ["CMD", "python", "-m", "trillium.healthcheck"]
    assert config["StopSignal"] == "SIGTERM"


def test_what_it_keeps_of_arrow_reads_parquet(api: docker.APIClient) -> None:
    file = io.BytesIO()
    table = pa.table({"x": [1.5, 2.5], "label": pa.array(["a", "b"]).dictionary_encode()})
    parquet.write_table(table, file, compression="zstd")
    program = """
import base64, sys
from controller.catalog.datasets import parse
found = parse(base64.b64decode(sys.argv[1]))
print(found.format.value, found.rows.tolist(), found.labels)
"""
    content = base64.b64encode(file.getvalue()).decode()
    said = output_of(api, "python", "-c", program, content)
    assert said == "parquet [[1.5], [2.5]] ('a', 'b')\n"


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
@pytest.mark.timeout(900)
def test_either_builder_builds_it(engine: str, api: docker.APIClient, buildkit: bool) -> None:
    name, serving = (f"trillium-test:{secrets.token_hex(6)}" for _ in range(2))
    environment = {**os.environ, "DOCKER_HOST": engine, "DOCKER_BUILDKIT": str(int(buildkit))}
    environment |= {"TRILLIUM_IMAGE": name, "TRILLIUM_SERVING_IMAGE": serving}
    if buildkit:
        environment["PATH"] = f"{folder_of_buildkit()}:{environment['PATH']}"
    done = subprocess.run(
        [SCRIPTS / "build_image.sh"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    try:
        for pair in ((name, IMAGE), (serving, SERVING_IMAGE)):
            built, ours = (api.inspect_image(each)["Config"] for each in pair)  # type: ignore[no-untyped-call]
            for part in ("Cmd", "Entrypoint", "Env", "Healthcheck", "Labels", "User", "WorkingDir"):
                assert built[part] == ours[part], part
    finally:
        for each in (name, serving):
            api.remove_image(each)


def folder_of_buildkit() -> Path:
    """Where there is a docker command that can have BuildKit build: one with the plugin buildx, or
    one of the time before that was needed."""
    for folder in os.get_exec_path():
        docker_here = Path(folder) / "docker"
        if not os.access(docker_here, os.X_OK):
            continue
        said = _output_of_tool(docker_here, "--version")
        major = re.search(r"version (\d+)", said)
        if (major and int(major[1]) < 23) or "github.com/docker/buildx" in _output_of_tool(
            docker_here, "buildx", "version"
        ):
            return Path(folder)
    raise AssertionError("no docker command here has BuildKit: install Docker's plugin buildx")


def _output_of_tool(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return done.stdout
