"""A container of ours in the engine's terms: names, labels, profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.types import LogConfig

from .docker_settings import DockerSettings, Reach
from .port import Container, ContainerSpec, ContainerState

PORT = 50061
USER = "10001:10001"
"""As in the Dockerfile; set here, too, so that no image can make it root."""

OWNER = "trillium.owner"
DEPLOYMENT = "trillium.deployment"
INSTANCE = "trillium.slot"
ATTEMPT = "trillium.attempt"
CPUS = "trillium.cpus"
MEMORY = "trillium.memory_bytes"

_STATES = {
    "created": ContainerState.STARTING,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "removing": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container ended. It never changes, as containers are never started again."""

    exit_code: int | None = None
    out_of_memory: bool = False


def name_of(spec: ContainerSpec, owner: str) -> str:
    """The container's name: no two attempts share one."""
    return f"trillium-{owner}-{spec.deployment}-{spec.instance}-{spec.attempt}"


def attempt_labels(spec: ContainerSpec, owner: str) -> dict[str, str]:
    """What distinguishes an attempt from all others."""
    return {
        OWNER: owner,
        DEPLOYMENT: spec.deployment,
        INSTANCE: str(spec.instance),
        ATTEMPT: str(spec.attempt),
    }


def label_filter(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """The engine's filter for containers that have all of `labels`."""
    return {"label": [f"{key}={value}" for key, value in labels.items()]}


def create_container(client: APIClient, spec: ContainerSpec, settings: DockerSettings) -> str:
    """Make it, without starting it; answers its full id. Raises what docker raises."""
    cpus = settings.cpus if spec.cpus is None else spec.cpus
    memory_bytes = spec.memory_bytes or settings.memory_bytes
    labels = attempt_labels(spec, settings.owner)
    answer = client.create_container(
        spec.image or settings.image,
        entrypoint=["python", "-m", "predictor"],
        command=[
            *("--listen", f"0.0.0.0:{PORT}"),
            # The engine's network lets in who may: its peers there, or whoever reaches a loopback
            # port of the host.
            *("--insecure", "yes", "--anonymous", "service"),
            *settings.arguments,
        ],
        name=name_of(spec, settings.owner),
        labels={**labels, CPUS: f"{cpus:g}", MEMORY: str(memory_bytes)},
        user=USER,
        ports=[PORT],
        host_config=_host_config(client, cpus, memory_bytes, settings),
        # Asked over gRPC by whoever wants to know; a probe inside would start a Python each time.
        healthcheck={"test": ["NONE"]},
        stop_signal="SIGTERM",
        use_config_proxy=False,
    )
    return str(answer["Id"])


def _host_config(
    client: APIClient, cpus: float, memory_bytes: int, settings: DockerSettings
) -> dict[str, Any]:
    """The security profile and the limits, which every container gets. Nothing is mounted from the
    host, the engine's socket least of all."""
    published: dict[int | str, Any] = {}
    if settings.reach is Reach.LOOPBACK:
        published[PORT] = ("127.0.0.1", None)
    config: dict[str, Any] = client.create_host_config(
        read_only=True,
        tmpfs={"/tmp": f"rw,noexec,nosuid,nodev,mode=1777,size={settings.temporary_bytes}"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        privileged=False,
        ipc_mode="private",
        pids_limit=settings.pids,
        mem_limit=memory_bytes,
        memswap_limit=memory_bytes,
        nano_cpus=round(cpus * 1e9),
        init=True,
        network_mode=settings.network,
        port_bindings=published,
        # Neither restarted nor removed by the engine: an attempt has one life, and its log and
        # exit code stay until they were read.
        restart_policy={"Name": "no"},
        auto_remove=False,
        log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
    )
    return config


def state_of(entry: Mapping[str, Any]) -> ContainerState:
    """The state of an entry of the engine's list. One of a kind that is unknown is alive: better
    one look too many than a healthy container taken for dead."""
    return _STATES.get(entry.get("State", ""), ContainerState.RUNNING)


def seen(entry: Mapping[str, Any], ending: Ending, settings: DockerSettings) -> Container | None:
    """An entry of the engine's list in the port's terms; None if its labels are not ours."""
    labels = entry.get("Labels") or {}
    try:
        deployment = labels[DEPLOYMENT]
        instance, attempt = int(labels[INSTANCE]), int(labels[ATTEMPT])
    except (KeyError, ValueError):
        return None
    state = state_of(entry)
    return Container(
        id=entry["Id"],
        deployment=deployment,
        instance=instance,
        attempt=attempt,
        state=state,
        address=_address(entry, settings) if state is ContainerState.RUNNING else "",
        server=settings.server,
        exit_code=ending.exit_code,
        out_of_memory=ending.out_of_memory,
    )


def _address(entry: Mapping[str, Any], settings: DockerSettings) -> str:
    if settings.reach is Reach.NETWORK:
        return f"{entry['Id'][:12]}:{PORT}"
    for port in entry.get("Ports") or ():
        if port.get("PrivatePort") == PORT and port.get("PublicPort"):
            return f"127.0.0.1:{port['PublicPort']}"
    return ""
