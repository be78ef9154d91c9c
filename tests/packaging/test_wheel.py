"""What the wheel owns, and that nobody else's package takes anything of it away."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.environment import Environment, run
from tests.packaging.conftest import ROOT, build_wheel
from tests.ports import free_ports

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

SERVICES = ("aggregator", "controller", "gateway", "predictor")
PORT_OPTIONS = ("--port", "--controller-port", "--gateway-port")


@pytest.fixture
def foreign(tmp_path: Path) -> list[str]:
    """Wheels of other people's packages that have the names of our folders."""
    wheels = []
    for name in SERVICES:
        package = tmp_path / "foreign" / name / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('raise ImportError("this is not Trillium")\n')
        (package / "__main__.py").write_text('raise SystemExit("this is not Trillium")\n')
        (package.parent / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "{name}"\nversion = "1"\n'
        )
        wheels.append(str(build_wheel(package.parent, package.parent)))
    return wheels


def demo(environment: Environment, folder: Path) -> None:
    """Train, start every service, score, run, and stop, in `folder`."""
    trillium = str(environment.folder / "bin" / "trillium")
    run([trillium, "models", "train", "--builtin", "iris", "--output", "models"], cwd=folder)
    ports = [str(port) for port in free_ports(3)]
    options = (f"{option}={port}" for option, port in zip(PORT_OPTIONS, ports, strict=True))
    lines = run([trillium, "up", "--demo", "--json", *options], cwd=folder).splitlines()
    events = {json.loads(line)["event"] for line in lines}
    assert {"scores", "run"} <= events, lines


def test_the_wheel_owns_no_name_but_those_that_begin_with_ours(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}

    packages = {name for name in top if not name.endswith(".dist-info")}
    assert packages == {"trillium", *(f"trillium_{name}" for name in SERVICES)}


def test_packages_of_the_same_names_disturb_nothing(
    environment: Environment, elsewhere: Path, wheel: Path, foreign: list[str]
) -> None:
    environment.install(f"trillium[cli,controller,gateway,train] @ {wheel.as_uri()}")
    environment.install("--no-index", *foreign)

    demo(environment, elsewhere)
    for name in SERVICES:
        program = environment.folder / "bin" / f"trillium-{name}"
        assert "--listen" in run([str(program), "--help"], cwd=elsewhere)


def test_packages_of_the_same_names_do_not_disturb_a_checkout_either(
    environment: Environment, elsewhere: Path, foreign: list[str]
) -> None:
    environment.install("--editable", f"{ROOT}[cli,controller,gateway,train]")
    environment.install("--no-index", *foreign)

    demo(environment, elsewhere)
