"""The generated stubs import wherever a user may have them, with all the libraries we allow.

From a bare checkout, an editable install and a wheel; each with the oldest protobuf, grpcio and
googleapis-common-protos that pyproject.toml allows, and with the newest that the package index
has; and in one process with tritonclient. Every environment is a fresh one, filled from the index
that the person's pip uses: without one these tests fail.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.environment import Environment

ROOT = Path(__file__).resolve().parents[2]
IMPORT_STUBS = Path(__file__).with_name("import_stubs.py").read_text(encoding="utf-8")
STUB_LIBRARIES = ("googleapis-common-protos", "grpcio", "protobuf")
TRITON = "tritonclient[grpc]==2.73.0"
# All of an environment may have to be fetched over a slow line.
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]


def import_stubs(environment: Environment, *names: str, cwd: Path) -> Mapping[str, Path]:
    """Import and use the modules in this order; the file that each came from."""
    files = environment.run(IMPORT_STUBS, *names, cwd=cwd)
    return {name: Path(file).resolve() for name, file in files.items()}


def _requirements() -> Mapping[str, Requirement]:
    """The base dependencies of pyproject.toml that the stubs use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [Requirement(line) for line in project["dependencies"]]
    return {each.name: each for each in every if each.name in STUB_LIBRARIES}


def _oldest(requirement: Requirement) -> str:
    [lower] = [each.version for each in requirement.specifier if each.operator == ">="]
    return f"{requirement.name}=={lower}"


def _pins(age: str) -> list[str]:
    """What to ask for: exactly the lower bounds, or the bounds themselves, which means newest."""
    every = _requirements().values()
    return [_oldest(each) if age == "oldest" else str(each) for each in every]


def _stub_names() -> list[str]:
    files = sorted((ROOT / "trillium").rglob("*_pb2*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


@pytest.fixture(params=["oldest", "newest"])
def age(request: pytest.FixtureRequest) -> str:
    """Which end of the allowed library versions."""
    answer: str = request.param
    return answer


def _assert_libraries(environment: Environment, age: str) -> None:
    """The environment has the versions that the case is about."""
    installed = environment.versions()
    for name, requirement in _requirements().items():
        oldest = Version(_oldest(requirement).split("==")[1])
        assert installed[name] in requirement.specifier
        assert (installed[name] == oldest) == (age == "oldest"), f"{name} {installed[name]}"


def test_every_package_with_protos_has_stubs() -> None:
    protos = ROOT / "protos"
    wanted = {
        ".".join(file.relative_to(protos).with_suffix("").parts) + "_pb2"
        for file in (protos / "trillium").rglob("*.proto")
    }
    assert wanted
    assert wanted <= set(_stub_names())


def test_stubs_import_from_a_bare_checkout(environment: Environment, age: str) -> None:
    environment.install(*_pins(age))
    _assert_libraries(environment, age)
    assert "trillium" not in environment.versions()

    files = import_stubs(environment, *_stub_names(), cwd=ROOT)

    assert all(file.is_relative_to(ROOT / "trillium") for file in files.values())


def test_stubs_import_from_an_editable_install(
    environment: Environment, age: str, elsewhere: Path
) -> None:
    environment.install(*_pins(age), "--editable", str(ROOT))
    _assert_libraries(environment, age)

    files = import_stubs(environment, *_stub_names(), cwd=elsewhere)

    assert all(file.is_relative_to(ROOT / "trillium") for file in files.values())


def test_stubs_import_from_a_wheel(
    environment: Environment, age: str, elsewhere: Path, wheel: Path
) -> None:
    environment.install(*_pins(age), str(wheel))
    _assert_libraries(environment, age)

    files = import_stubs(environment, *_stub_names(), cwd=elsewhere)

    assert all(file.is_relative_to(environment.folder.resolve()) for file in files.values())


def test_wheel_carries_types(wheel: Path, environment: Environment) -> None:
    environment.install("--no-deps", str(wheel))

    [package] = environment.folder.glob("lib/python*/site-packages/trillium")

    assert (package / "py.typed").is_file()
    for name in _stub_names():
        assert (package.parent / name.replace(".", "/")).with_suffix(".pyi").is_file()


def test_stubs_import_beside_tritonclient(
    environment: Environment, elsewhere: Path, wheel: Path
) -> None:
    environment.install(TRITON, str(wheel))
    ours, theirs = _stub_names(), "tritonclient.grpc"

    for order in ([theirs, *ours], [*ours, theirs]):
        assert set(import_stubs(environment, *order, cwd=elsewhere)) == set(order)
