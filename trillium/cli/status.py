"""What `trillium status` shows of the controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from trillium import errors
from trillium.cli import listing
from trillium.cli.show import Screen
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller_client import ControllerClient

_LONGEST_S = 2.0
"""An ensemble needs no controller, so nobody waits long for one."""


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """A controller as it is."""

    address: str
    serving: bool = False
    problem: str = ""
    """Why nothing is known of it; empty if something is."""
    servers: Sequence[pb.Server] = ()
    deployments: Sequence[deployment_pb.Deployment] = ()
    """Without those that are terminated."""

    def show(self, screen: Screen) -> None:
        """Print it."""
        if self.problem:
            screen.text(Text.assemble("no controller: ", (self.problem, "dim")))
            return
        state = ("serving", "green") if self.serving else ("not serving", "red")
        screen.text(Text.assemble(("the controller", "bold"), f" at {self.address} is ", state))
        screen.table(listing.servers(self.servers))
        if self.deployments:
            screen.table(listing.deployments(self.deployments))
            screen.table(listing.instances(self.deployments))

    def json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "address": self.address,
            "serving": self.serving,
            "problem": self.problem,
            "servers": [listing.plain(each) for each in self.servers],
            "deployments": [listing.plain(each) for each in self.deployments],
        }


def controller_status(address: str, timeout_s: float) -> ControllerStatus:
    """What the controller at `address` says, or why it says nothing."""
    with ControllerClient(address, timeout_s=min(timeout_s, _LONGEST_S)) as controller:
        try:
            return ControllerStatus(
                address,
                serving=controller.is_serving(),
                servers=controller.servers(),
                deployments=[
                    each
                    for each in controller.deployments()
                    if each.state != deployment_pb.STATE_TERMINATED
                ],
            )
        except errors.TrilliumError as error:
            return ControllerStatus(address, problem=str(error))
