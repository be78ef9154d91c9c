"""What `trillium up` starts: the options of the command line as programs, ports and files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trillium.access.local import can_prove
from trillium.access.roles import Role
from trillium.cli import ports
from trillium.server import programs

TOKENS = "tokens.json"
_METRICS = {"controller": 0, "aggregator": 1, "gateway": 2}


@dataclass(frozen=True, slots=True)
class Program:
    """A server to start: its command, its port on `ports.HOST`, and the file for its output."""

    name: str
    command: tuple[str, ...]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"{ports.HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of `trillium up`."""

    ensembles: tuple[str, ...]
    """At least one."""
    models: Path
    """Folder of the artifacts."""
    demo: bool
    """Whether to exit after the scores and the run."""
    port: int
    """Port of the aggregator."""
    controller_port: int
    state: Path
    """Folder for the state that a restart resumes, and for the logs."""
    gateway_port: int | None = None
    """Port of the gateway; None starts none."""
    allowed_hosts: Sequence[str] = ()
    """Additional host names of the gateway."""
    metrics_port: int | None = None
    """First of three ports in a row for metrics: of the controller, the aggregator, the gateway."""
    make_target: str = ""
    """Target of the Makefile that started this; empty if none did."""

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def check_ports(self) -> None:
        """Raises StartFailed if a port is taken."""
        needed = [
            ports.Wanted(self.port, "the aggregator", "--port", ports.AGGREGATOR),
            ports.Wanted(
                self.controller_port, "the controller", "--controller-port", ports.CONTROLLER
            ),
        ]
        if self.gateway_port is not None:
            needed.append(ports.Wanted(self.gateway_port, "the gateway", "--gateway-port"))
        if self.metrics_port is not None:
            for name, place in _METRICS.items():
                if name != "gateway" or self.gateway_port is not None:
                    port = self.metrics_port + place
                    needed.append(ports.Wanted(port, f"the {name}'s metrics", "--metrics-port"))
        ports.check(needed, self.make_target)

    def controller(self) -> Program:
        """The controller, which runs the predictors."""
        store = ("--store", f"sqlite:{self.state / 'controller.db'}")
        models = ("--models-dir", str(self.models))
        port = self.controller_port
        return self._program("controller", port, f"controller-{port}", *store, *models)

    def aggregator(self) -> Program:
        """The aggregator: of these ensembles, and of those that are applied later."""
        log = f"{self.ensembles[0]}-aggregator-{self.port}"
        controller = ("--controller", self.controller().address)
        return self._program("aggregator", self.port, log, *controller)

    def gateways(self) -> list[Program]:
        """The gateway, if the plan has one."""
        if self.gateway_port is None:
            return []
        port, hosts = self.gateway_port, [f"--allowed-host={each}" for each in self.allowed_hosts]
        aggregator = ("--aggregator", self.aggregator().address)
        controller = ("--controller", self.controller().address)
        return [self._program("gateway", port, f"gateway-{port}", *aggregator, *controller, *hosts)]

    def _program(self, program: str, port: int, log: str, *words: str) -> Program:
        # The parent's pid makes the server exit when this process dies without stopping it.
        listen: tuple[str, ...] = (
            "--listen",
            f"{ports.HOST}:{port}",
            "--parent-pid",
            str(os.getpid()),
        )
        if self.metrics_port is not None:
            at = f"{ports.HOST}:{self.metrics_port + _METRICS[program]}"
            listen += ("--metrics-listen", at)
        if program != "gateway":  # It hands tokens on.
            listen += ("--tokens", str(self.state / TOKENS))
            if not can_prove():
                # Nothing distinguishes our own servers and their user from other users here.
                listen += ("--anonymous", Role.ADMIN.value)
        command = programs.command(program, *words, *listen)
        return Program(f"the {program}", command, port, self.logs / f"{log}.log")
