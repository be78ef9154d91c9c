"""Settings of a controller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trillium.server.config import (
    ConfigError,
    GrpcServerConfig,
    Setting,
    address,
    folder,
    nonempty,
    one_of,
    read,
    seconds,
    setting,
    settings_of,
    whole_number,
)

from .deployments.probing import ProbingPolicy
from .runtime.docker_settings import DockerSettings, DockerTls, Reach

MIB = 1024 * 1024
DAY_S = 86_400.0
MOST_S = 3650 * DAY_S
PROGRAM = "controller"


def store_uri(text: str) -> str:
    """Parses `sqlite:PATH` or a MongoDB URI."""
    if text.startswith("sqlite:") and len(text) > len("sqlite:"):
        return text
    if text.startswith(("mongodb://", "mongodb+srv://")):
        return text
    raise ValueError("expected sqlite:PATH, mongodb://... or mongodb+srv://...")


def label(text: str) -> str:
    """Parses `name=value`, a container's label."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError("expected name=value")
    return text


@dataclass(frozen=True, slots=True)
class ControllerConfig(GrpcServerConfig):
    """All settings of a controller."""

    listen: str = setting(address, "127.0.0.1:50052", "where to listen; port 0 takes any")
    store: str = setting(
        store_uri, "sqlite:.trillium/controller.db", "where all state is kept", metavar="URI"
    )
    """May hold a password: never logged."""
    database: str = setting(nonempty, "trillium", "name of the MongoDB database")
    models_dir: Path | None = setting(
        folder, None, "folder whose artifacts are registered at start", metavar="DIR"
    )
    docker: DockerSettings | None = None
    """None runs predictors as child processes."""
    probing: ProbingPolicy = field(default_factory=ProbingPolicy)
    max_model_bytes: int = setting(whole_number(1, 2**31), 1024 * MIB, "largest artifact")
    max_dataset_bytes: int = setting(whole_number(1, 2**31), 256 * MIB, "largest dataset file")
    keep_runs_s: float = setting(
        seconds(60, MOST_S), 7 * DAY_S, "how long a run and its results stay after its deadline"
    )
    keep_events_s: float = setting(
        seconds(60, MOST_S), 30 * DAY_S, "how long the events of deployments stay"
    )
    keep_terminated_s: float = setting(
        seconds(60, MOST_S), DAY_S, "how long the record of a terminated deployment stays"
    )
    max_runs: int = setting(whole_number(1, 64), 2, "runs that are carried out at once")


SETTINGS = (
    *settings_of(ControllerConfig),
    Setting("runtime", one_of("process", "docker"), "process", "what runs predictors"),
    Setting("docker_url", nonempty, "unix:///var/run/docker.sock", "the engine", metavar="URL"),
    Setting("docker_tls_ca", nonempty, None, "authority of an engine behind TLS", metavar="FILE"),
    Setting("docker_tls_cert", nonempty, None, "our certificate for the engine", metavar="FILE"),
    Setting("docker_tls_key", nonempty, None, "key of our certificate", metavar="FILE"),
    Setting("image", nonempty, "trillium:latest", "image of the predictors' containers"),
    Setting("network", nonempty, "bridge", "network of the predictors' containers"),
    Setting(
        "reach",
        one_of("loopback", "network"),
        "loopback",
        "how predictors in containers are reached: by a port on 127.0.0.1, or by name on the "
        "network, when controller and aggregators are in containers there",
    ),
    Setting("owner", nonempty, "default", "marks the containers of this controller"),
    Setting(
        "keep_for",
        label,
        (),
        "label of the containers that predictors in containers are kept for: a controller that is "
        "stopped while none of them runs removes its predictors; repeat it for more labels, all of "
        "which they have",
        repeatable=True,
        metavar="NAME=VALUE",
    ),
    Setting("probe_interval_s", seconds(0.1, 3600), 10.0, "pause between probes of a predictor"),
    Setting("probe_timeout_s", seconds(0.1, 3600), 5.0, "how long a probe's answer may take"),
    Setting(
        "probe_failures",
        whole_number(1, 1000),
        3,
        "unanswered probes in a row after which a predictor is replaced",
    ),
)


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> ControllerConfig:
    """The config that flags and environment make; raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Create, load, unload and terminate predictors, and run scoring jobs.",
    )
    docker = _docker(values)
    probing = ProbingPolicy(
        values.pop("probe_interval_s"), values.pop("probe_timeout_s"), values.pop("probe_failures")
    )
    return ControllerConfig(docker=docker, probing=probing, **values)


def _docker(values: dict[str, Any]) -> DockerSettings | None:
    """The engine's settings, taken out of `values`; raises ConfigError."""
    ca, certificate, key = (
        None if path is None else Path(path)
        for path in (values.pop(f"docker_tls_{part}") for part in ("ca", "cert", "key"))
    )
    url, image, network = values.pop("docker_url"), values.pop("image"), values.pop("network")
    reach, owner = Reach(values.pop("reach")), values.pop("owner")
    keep_for = values.pop("keep_for")
    if values.pop("runtime") == "process":
        return None
    if ca is None and (certificate or key):
        raise ConfigError(["--docker-tls-cert and --docker-tls-key go with --docker-tls-ca"])
    return DockerSettings(
        base_url=url,
        image=image,
        owner=owner,
        reach=reach,
        network=network,
        keep_for=keep_for,
        tls=None if ca is None else DockerTls(ca, certificate, key),
    )
