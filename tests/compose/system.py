"""compose.yaml as an operator runs it: under a name, an owner and ports of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import docker

from tests.ports import free_ports
from tests.runtime.engine import IMAGE, SERVING_IMAGE, client_of
from trillium import Client
from trillium.client.answers import PredictorState
from trillium.errors import TrilliumError

ROOT = Path(__file__).resolve().parents[2]
SERVICES = (
    "aggregator",
    "controller",
    "credentials",
    "gateway",
    "mongo",
    "predictor-setosa",
    "predictor-versicolor",
    "predictor-virginica",
)
ONE_SHOT = ("credentials",)
"""Services that end by themselves."""
AGGREGATOR = "trillium.aggregator.v1.AggregatorService"
CONTROLLER = "trillium.controller.v1.ControllerService"
RUNS = "trillium.controller.v1.RunService"
FLOWER = '{"instances":[{"features":[5.1,3.5,1.4,0.2]}]}'
ROWS = [[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]]
LABELS = ["setosa", "versicolor", "virginica"]


def command_of_compose() -> list[str]:
    """Docker Compose: the one that `make install` puts beside this Python, else the machine's."""
    own = Path(sys.executable).with_name("docker-compose")
    return [str(own)] if own.is_file() else ["docker", "compose"]


class System:
    """One installation. Every command is bounded, and fails with what it printed."""

    def __init__(
        self,
        engine: str,
        mongo: Mapping[str, str],
        api: docker.APIClient,
        within: Sequence[str] = (),
    ) -> None:
        """`engine` is the address of an engine with the image, `api` a client of it; `mongo` are
        the variables that say what the database is; `within` is what a command begins with that is
        to reach the published ports."""
        self.engine = engine
        self.within = within
        self.api = api
        self.project = f"trillium-test-{secrets.token_hex(4)}"
        self.owner = self.project.replace("-", "")
        aggregator, controller, gateway = free_ports(3)
        self.aggregator = f"127.0.0.1:{aggregator}"
        self.controller = f"127.0.0.1:{controller}"
        self.gateway = f"http://127.0.0.1:{gateway}"
        socket = engine.removeprefix("unix://")
        passed = ("PATH", "HOME", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
        self._environment = {
            **{name: os.environ[name] for name in passed if name in os.environ},
            "DOCKER_HOST": engine,
            "DOCKER_SOCKET": socket,
            "DOCKER_GID": str(group_of(api, socket)),
            "COMPOSE_PROJECT_NAME": self.project,
            "TRILLIUM_OWNER": self.owner,
            "TRILLIUM_IMAGE": IMAGE,
            "TRILLIUM_SERVING_IMAGE": SERVING_IMAGE,
            "AGGREGATOR_PORT": str(aggregator),
            "CONTROLLER_PORT": str(controller),
            "GATEWAY_PORT": str(gateway),
            **mongo,
        }

    def compose(
        self,
        *arguments: str,
        within_s: float = 170,
        given: bytes | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """`docker compose` with these arguments, `given` as its standard input, and `settings` over
        those of `.env`."""
        done = subprocess.run(
            [*command_of_compose(), "--progress=quiet", *arguments],
            cwd=ROOT,
            env={**self._environment, **(settings or {})},
            input=given if given is not None else b"",
            check=False,
            capture_output=True,
            timeout=within_s,
        )
        said = done.stderr.decode()
        assert done.returncode == 0, f"{arguments}: {said}{done.stdout[-2000:].decode()}"
        return done

    def up(self, *arguments: str) -> float:
        """`up --detach --wait`; answers how many seconds it took."""
        began = time.monotonic()
        try:
            self.compose("up", "--detach", "--wait", *arguments)
        except AssertionError:
            print(self.compose("logs", "--tail=20").stdout.decode())
            raise
        return time.monotonic() - began

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's first container."""
        return self.containers(service)[0]

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the engine says of the containers of a service, or of all; stopped ones too."""
        labels = [f"com.docker.compose.project={self.project}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return self._inspected(labels)

    def made(self) -> list[dict[str, Any]]:
        """What the engine says of the containers that the controller made."""
        return self._inspected([f"trillium.owner={self.owner}"])

    def _inspected(self, labels: list[str]) -> list[dict[str, Any]]:
        entries = self.api.containers(all=True, filters={"label": labels})
        return [self.api.inspect_container(each["Id"]) for each in entries]

    def left(self) -> dict[str, int]:
        """How many containers, networks and volumes there are of this installation."""
        ours = {"label": [f"com.docker.compose.project={self.project}"]}
        return {
            "containers": len(self.containers()),
            "made": len(self.made()),
            "networks": len(self.api.networks(filters=ours)),
            "volumes": len(self.api.volumes(filters=ours)["Volumes"] or ()),
        }

    def is_healthy(self, *services: str) -> bool:
        """Whether every container of these services is healthy."""
        return all(
            each["State"]["ExitCode"] == 0
            if service in ONE_SHOT
            else each["State"].get("Health", {}).get("Status") == "healthy"
            for service in services
            for each in self.containers(service)
        )

    def kill(self, service: str) -> None:
        """SIGKILL for a service's process, as when it crashes: unlike `docker kill`, which counts
        as somebody's wish, this has the engine start it again."""
        pid = self.container(service)["State"]["Pid"]
        host = self.api.create_host_config(pid_mode="host", network_mode="none", cap_add=["KILL"])
        program = f"import os; os.kill({pid}, 9)"
        killer = self.api.create_container(
            IMAGE, ["-c", program], entrypoint=["python"], user="0:0", host_config=host
        )["Id"]
        try:
            self.api.start(killer)
            assert self.api.wait(killer, timeout=60)["StatusCode"] == 0
        finally:
            self.api.remove_container(killer, force=True)

    def run_in(self, service: str, *command: str) -> str:
        """What a command in a service's container prints; it must succeed."""
        return self.compose("exec", "-T", service, *command).stdout.decode()

    @cached_property
    def token(self) -> str:
        """A token for everything, made as an operator makes one."""
        create = "-m trillium token create tests --role admin --expires 1d"
        return self.run_in("controller", "python", *create.split()).strip()

    @property
    def bearing(self) -> tuple[str, str]:
        """What grpcurl is given to bring the token."""
        return "-H", f"authorization: Bearer {self.token}"

    def control(self, method: str, **message: Any) -> Any:
        """What a method of the controller answers to grpcurl; with its service for others than
        ControllerService."""
        full = method if "/" in method else f"{CONTROLLER}/{method}"
        return json.loads(
            grpcurl(
                *self.bearing,
                *("-d", json.dumps(message), self.controller, full),
                within=self.within,
            )
        )

    def is_controlling(self) -> bool:
        """Whether the controller answers, database and all."""
        try:
            self.control("ListDeployments")
        except AssertionError:
            return False
        return True

    def addresses(self) -> list[str]:
        """Where the aggregator has predictors that are ready."""
        with Client(self.aggregator, timeout_s=10) as client:
            known = client.predictors()
        return [each.address for each in known if each.state is PredictorState.READY]

    def labels(self) -> list[str | None]:
        """The labels of three flowers; it raises what the client raises."""
        with Client(self.aggregator, timeout_s=10) as client:
            return list(client.classify(ROWS).labels)


def grpcurl(*arguments: str, within: Sequence[str] = ()) -> str:
    """What grpcurl prints, called as a person calls it."""
    program = Path(sys.executable).with_name("grpcurl")
    done = subprocess.run(
        [*within, program, "-plaintext", "-max-time", "60", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=70,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def group_of(api: docker.APIClient, socket: str) -> int:
    """The group that the engine's socket has, as a container sees it."""
    host = api.create_host_config(network_mode="none", binds=[f"{socket}:/engine.sock:ro"])
    program = "import os; print(os.stat('/engine.sock').st_gid)"
    made = api.create_container(IMAGE, ["-c", program], entrypoint=["python"], host_config=host)
    try:
        api.start(made["Id"])
        assert api.wait(made["Id"], timeout=60)["StatusCode"] == 0
        return int(api.logs(made["Id"]))
    finally:
        api.remove_container(made["Id"], force=True)


@contextmanager
def installed(
    engine: str, mongo: Mapping[str, str], *, within: Sequence[str] = ()
) -> Iterator[System]:
    """An installation that is not up yet; afterwards it is down, and nothing of it is left."""
    with closing(client_of(engine)) as api:
        system = System(engine, mongo, api, within)
        try:
            yield system
        finally:
            system.compose("down", "--volumes")
            assert set(system.left().values()) == {0}, system.left()


class Load:
    """Predictions, one after the other, in a thread, for as long as the context lasts."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self.failures: list[TrilliumError] = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._predict, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _predict(self) -> None:
        with Client(self._address, timeout_s=10) as client:
            while not self._stop.wait(0.02):
                try:
                    client.predict(ROWS)
                    self.answered += 1
                except TrilliumError as failure:
                    self.failures.append(failure)

    def more(self, count: int = 20) -> Any:
        """A condition: so many more answers have come since now."""
        wanted = self.answered + count
        return lambda: self.answered >= wanted


def by_service(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Inspected containers by the name of their service."""
    return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in entries}
