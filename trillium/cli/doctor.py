"""`trillium doctor`: checks whether this machine can run Trillium, and suggests fixes."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import typer

from trillium.cli.options import ControllerPort, GatewayPort, Json, ModelsFolder, Port
from trillium.cli.ports import AGGREGATOR, CONTROLLER
from trillium.server.process import EXIT_FAILED

GOOD, WARNING, BAD = "good", "warning", "bad"
_WAIT_S = 2.0
_LEAST_DISK_BYTES = 1 << 30
_LEAST_MEMORY_BYTES = 1 << 29
_LEAST_FILES = 1024
_DEFAULT_ENGINE = "unix:///var/run/docker.sock"
_REQUIRED = ("grpcio", "protobuf", "numpy")
"""Packages that all of Trillium needs."""
_OPTIONAL = ("onnxruntime", "docker", "pymongo", "scikit-learn")
"""Packages that a predictor, a controller of containers, MongoDB or training needs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    state: str
    """GOOD, WARNING (something optional is missing) or BAD (a start would fail)."""
    detail: str
    fix: str = ""
    """How to fix it; empty if it is good."""


def examine(
    port: Port = 50051,
    controller_port: ControllerPort = 50052,
    gateway_port: GatewayPort = 9000,
    models: ModelsFolder = Path("models"),
    as_json: Json = False,
) -> None:
    """Check Python, packages, ports, engine and store, and print how to fix each problem."""
    from trillium.cli.plain import PlainTable
    from trillium.cli.show import Screen

    findings = list(findings_of(port, controller_port, gateway_port, models, os.environ))
    screen = Screen()
    if as_json:
        for each in findings:
            screen.json(asdict(each))
    else:
        from rich.text import Text

        styles = {GOOD: "green", WARNING: "yellow", BAD: "red"}
        table = PlainTable()
        for heading in ("what", "", "result", "fix"):
            table.add_column(heading, no_wrap=heading in ("what", ""), overflow="fold")
        for each in findings:
            state = Text(each.state, style=styles[each.state])
            table.add_row(each.what, state, Text(each.detail), Text(each.fix))
        screen.table(table)
    if any(each.state == BAD for each in findings):
        raise typer.Exit(EXIT_FAILED)


def findings_of(
    port: int,
    controller_port: int,
    gateway_port: int,
    models: Path,
    environment: Mapping[str, str],
) -> Iterator[Finding]:
    """Every check, in the order in which a start needs it."""
    yield _python()
    for package in _REQUIRED:
        yield _package(package, BAD)
    for package in _OPTIONAL:
        yield _package(package, WARNING)
    yield _files()
    yield from _memory()
    yield _models(models)
    yield _port("aggregator", port, "--port", AGGREGATOR)
    controller = _port("controller", controller_port, "--controller-port", CONTROLLER)
    yield controller
    yield _gateway_port(gateway_port)
    yield _engine(environment)
    yield _store(environment.get("TRILLIUM_CONTROLLER_STORE") or "sqlite:.trillium/controller.db")
    if "serves" in controller.detail:
        yield from _servers(f"127.0.0.1:{controller_port}")


def _python() -> Finding:
    """Always good: pip refuses to install Trillium on an older one."""
    return Finding("Python", GOOD, platform.python_version())


def _package(name: str, missing: str) -> Finding:
    try:
        return Finding(name, GOOD, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, missing, "is not installed", f"pip install {name}")


def _files() -> Finding:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < _LEAST_FILES:
        fix = f"ulimit -n {_LEAST_FILES}"
        return Finding("open files", WARNING, f"at most {limit} for each process", fix)
    return Finding("open files", GOOD, f"at most {limit} for each process")


def _memory() -> Iterator[Finding]:
    """Only on Linux, whose kernel reports it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    (free,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    detail = f"{free / 2**30:.1f} GiB available"
    if free < _LEAST_MEMORY_BYTES:
        fix = "each predictor takes about 60 MiB: stop something, or serve fewer classes"
        yield Finding("memory", WARNING, detail, fix)
    else:
        yield Finding("memory", GOOD, detail)


def _models(folder: Path) -> Finding:
    found = sorted(folder.glob("*.onnx"))
    if not found:
        fix = "make models, or --models names another folder"
        return Finding("models", WARNING, f"no artifact in {folder}", fix)
    return Finding("models", GOOD, f"{len(found)} in {folder}")


def _port(what: str, port: int, option: str, service: str) -> Finding:
    from trillium.cli.ports import HOST, is_free, serves

    if is_free(port):
        return Finding(what, GOOD, f"port {port} is free")
    serving = serves(port, service)
    if serving:
        return Finding(what, GOOD, f"one serves at {HOST}:{port}")
    if serving is False:
        fix = "`trillium status` shows its predictors"
        return Finding(what, WARNING, f"the one at {HOST}:{port} does not serve", fix)
    fix = f"stop what listens there, or choose another {option}"
    return Finding(what, BAD, f"port {port} is in use by something else, or not allowed", fix)


def _gateway_port(port: int) -> Finding:
    """A gateway is optional, so a port in use is only a warning."""
    from trillium.cli.ports import HOST, is_free
    from trillium.cli.status import gateway_status

    if is_free(port):
        return Finding("gateway", GOOD, f"port {port} is free")
    status = gateway_status(f"{HOST}:{port}", _WAIT_S)
    if status.serving:
        return Finding("gateway", GOOD, f"one serves at {HOST}:{port}")
    fix = "for `trillium up --gateway`: stop what listens there, or choose another --gateway-port"
    return Finding("gateway", WARNING, f"no gateway, but port {port} is in use", fix)


def _engine(environment: Mapping[str, str]) -> Finding:
    wanted = environment.get("TRILLIUM_CONTROLLER_RUNTIME") == "docker"
    url = environment.get("TRILLIUM_CONTROLLER_DOCKER_URL") or environment.get("DOCKER_HOST")
    url = url or _DEFAULT_ENGINE
    missing = BAD if wanted else WARNING
    if not url.startswith("unix://"):
        where = urlsplit(url)
        return _reached("engine", where.hostname, where.port or 2376, missing, url)
    path = url.removeprefix("unix://")
    if not Path(path).exists():
        detail = f"none at {path}: predictors run as processes"
        return Finding("engine", missing, detail, "start Docker, or set DOCKER_HOST")
    connection = http.client.HTTPConnection("localhost", timeout=_WAIT_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_WAIT_S)
        connection.sock.connect(path)
        connection.request("GET", "/version")
        answer = connection.getresponse()
        answer.read()
    except PermissionError:
        fix = "add yourself to the group that owns it: usermod -aG docker $USER"
        return Finding("engine", missing, f"{path} is not yours to use", fix)
    except (OSError, http.client.HTTPException) as error:
        return Finding("engine", missing, f"{path}: {error}", "start Docker, or set DOCKER_HOST")
    finally:
        connection.close()
    if answer.status != 200:
        detail = f"{path} answered HTTP {answer.status}"
        return Finding("engine", missing, detail, "is that Docker? set DOCKER_HOST")
    return Finding("engine", GOOD, f"answers at {path}")


def _store(uri: str) -> Finding:
    if uri.startswith("sqlite:"):
        return _folder(Path(uri.removeprefix("sqlite:")).absolute().parent)
    if uri.startswith("mongodb+srv://"):
        # The driver looks its servers up in the DNS.
        return Finding("store", GOOD, "MongoDB behind a DNS name; checked at the start")
    first = urlsplit(uri).netloc.rpartition("@")[2].partition(",")[0]
    host, _, port = first.partition(":")
    fix = "start MongoDB there, or set TRILLIUM_CONTROLLER_STORE"
    if not host or (port and not port.isdecimal()):
        return Finding("store", BAD, f"TRILLIUM_CONTROLLER_STORE names {first!r}", fix)
    return _reached("store", host, int(port or 27017), BAD, f"MongoDB at {first}", fix)


def _folder(folder: Path) -> Finding:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK):
        fix = f"make {there} writable, or start in another folder"
        return Finding("store", BAD, f"SQLite in {folder}, which cannot be written", fix)
    free = shutil.disk_usage(there).free
    detail = f"SQLite in {folder}, {free / 2**30:.0f} GiB free"
    if free < _LEAST_DISK_BYTES:
        return Finding("store", WARNING, detail, "free some space")
    return Finding("store", GOOD, detail)


def _reached(
    what: str, host: str | None, port: int, state: str, name: str, fix: str = "is it up?"
) -> Finding:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host or "", port), timeout=_WAIT_S).close()
    except OSError as error:
        return Finding(what, state, f"{name}: {error.strerror or error}", fix)
    return Finding(what, GOOD, f"{name} accepts connections")


def _servers(address: str) -> Iterator[Finding]:
    """The engines of the controller at `address`."""
    from trillium import errors
    from trillium.client.controller import ControllerClient

    with ControllerClient(address, timeout_s=_WAIT_S) as controller:
        try:
            found = controller.servers()
        except errors.TrilliumError as error:
            yield Finding("servers", BAD, str(error), "see the log of the controller")
            return
    for each in found:
        detail = f"{each.runtime}: {each.container_count} predictors; {each.detail}"
        if each.reachable:
            yield Finding(each.name, GOOD, detail)
        else:
            yield Finding(each.name, BAD, detail, "start the engine; nothing is lost meanwhile")
