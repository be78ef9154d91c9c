"""`trillium status`: the state of aggregator, controller and gateway."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from trillium import errors
from trillium.cli import listing
from trillium.cli.show import Screen, metadata_line, predictor_table, status_json
from trillium.client.answers import EnsembleSummary, Metadata, PredictorStatus
from trillium.client.controller import ControllerClient
from trillium.client.sync import Client
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

_LONGEST_S = 2.0
"""Maximum wait for a controller or gateway, which are optional."""


@dataclass(frozen=True, slots=True)
class EnsembleStatus:
    """The state of an aggregator, or the error of the call."""

    address: str
    serving: bool = False
    ensembles: Sequence[EnsembleSummary] = ()
    metadata: Sequence[Metadata] = ()
    """Of each ensemble that was ever reached."""
    predictors: Sequence[PredictorStatus] = ()
    error: errors.TrilliumError | None = None

    def show(self, screen: Screen) -> None:
        """Print it."""
        if self.error is None:
            ready = {each.name: each.ready for each in self.ensembles}
            for known in self.metadata:
                is_ready = ready.get(known.ensemble, self.serving)
                screen.text(metadata_line(self.address, is_ready, known))
            if not self.metadata:
                screen.text(metadata_line(self.address, self.serving, None))
            screen.table(predictor_table(self.predictors))

    def json(self) -> dict[str, Any]:
        """The same as JSON."""
        only = self.metadata[0] if len(self.metadata) == 1 else None
        facts = status_json(self.address, self.serving, only, self.predictors)
        facts["ensembles"] = [asdict(each) for each in self.ensembles]
        return facts | {"problem": "" if self.error is None else str(self.error)}


def ensemble_status(address: str, timeout_s: float) -> EnsembleStatus:
    """The status of the aggregator at `address`."""
    with Client(address, timeout_s=timeout_s) as client:
        try:
            predictors, serving = client.predictors(), client.is_serving()
            ensembles = client.ensembles()
            metadata = []
            for each in ensembles:
                with (
                    suppress(errors.NoMetadata),
                    Client(address, ensemble=each.name, timeout_s=timeout_s) as one,
                ):
                    metadata.append(one.metadata())
        except errors.TrilliumError as error:
            return EnsembleStatus(address, error=error)
        return EnsembleStatus(address, serving, ensembles, metadata, predictors)


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The state of a gateway."""

    address: str
    serving: bool = False
    problem: str = ""
    """Why the state is unknown; empty if it is known."""

    def show(self, screen: Screen) -> None:
        """Print it."""
        if self.problem:
            screen.text(Text.assemble("no gateway: ", (self.problem, "dim")))
            return
        state = ("serving", "green") if self.serving else ("not serving", "red")
        what = f" at http://{self.address} is "
        screen.text(Text.assemble(("the gateway", "bold"), what, state))

    def json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def gateway_status(address: str, timeout_s: float) -> GatewayStatus:
    """The health of the gateway at `address`, over HTTP."""
    patience_s = min(timeout_s, _LONGEST_S)
    try:
        with closing(http.client.HTTPConnection(address, timeout=patience_s)) as connection:
            connection.request("GET", "/health")
            answer = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return GatewayStatus(address, problem=f"no answer from {address}: {error}")
    return GatewayStatus(address, serving=answer == http.client.OK)


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """The state of a controller."""

    address: str
    serving: bool = False
    problem: str = ""
    """Why the state is unknown; empty if it is known."""
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
        """The same as JSON."""
        return {
            "address": self.address,
            "serving": self.serving,
            "problem": self.problem,
            "servers": [listing.plain(each) for each in self.servers],
            "deployments": [listing.plain(each) for each in self.deployments],
        }


def controller_status(address: str, timeout_s: float) -> ControllerStatus:
    """The status of the controller at `address`, or why there is none."""
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
