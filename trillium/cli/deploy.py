"""`trillium deploy …` and `trillium servers`: deployments and the machines that run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    Json,
    NoWait,
    Patience,
    controller_at,
    examples,
    new_group,
)
from trillium.cli.output import waiting
from trillium.cli.sizes import bytes_of

if TYPE_CHECKING:
    from trillium.client.controller import ControllerClient
    from trillium.controller.v1 import deployment_pb2 as deployment_pb

app = new_group("Create, load, unload, terminate and watch deployments.")


def _optional_bytes(text: str | None) -> str | None:
    if text is not None and bytes_of(text) is None:
        raise typer.BadParameter(f"expected a size such as 512MiB or 1.5GiB, got {text!r}")
    return text


Id = Annotated[str, typer.Argument(help="Id of the deployment.", show_default=False)]
Model = Annotated[str, typer.Option(help="Model; needed if the deployment was never created.")]
Version = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the model; 0: the newest.")]


@app.command("create", epilog=examples("trillium deploy create iris-setosa --id a1 --replicas 2"))
def create(
    model: Annotated[str, typer.Argument(help="Name of a model.", show_default=False)],
    id: Annotated[str, typer.Option(help="Id of the deployment; generated if empty.")] = "",
    version: Version = 0,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Number of predictors.")] = 1,
    cpus: Annotated[float | None, typer.Option(help="Cores that each may use.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory that each may use: 512MiB.", callback=_optional_bytes)
    ] = None,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Start predictors for a model, without loading it."""

    def ask(controller: ControllerClient) -> deployment_pb.Deployment:
        return controller.create(
            model,
            id=id,
            version=version,
            replicas=replicas,
            cpus=cpus,
            memory_bytes=None if memory is None else bytes_of(memory),
            wait=not no_wait,
        )

    _verb(ask, address, timeout, as_json)


@app.command("load", epilog=examples("trillium deploy load a1", "trillium deploy load a1 --newest"))
def load(
    id: Id,
    model: Model = "",
    version: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the model; 0: the deployment's own.")
    ] = 0,
    newest: Annotated[bool, typer.Option("--newest", help="The model's newest version.")] = False,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Load a deployment's model, or replace it by another version without a failed call."""

    def ask(controller: ControllerClient) -> deployment_pb.Deployment:
        return controller.load(id, model=model, version=version, newest=newest, wait=not no_wait)

    _verb(ask, address, timeout, as_json)


@app.command("scale", epilog=examples("trillium deploy scale a1 --replicas 3"))
def scale(
    id: Id,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Number of predictors.")],
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Change how many predictors a deployment has, without a failed call."""
    _verb(
        lambda controller: controller.update(id, replicas=replicas, wait=not no_wait),
        address,
        timeout,
        as_json,
    )


@app.command("unload", epilog=examples("trillium deploy unload a1"))
def unload(
    id: Id,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Finish the requests in flight and free the model; the predictors stay up."""
    _verb(lambda controller: controller.unload(id, wait=not no_wait), address, timeout, as_json)


@app.command("terminate", epilog=examples("trillium deploy terminate a1"))
def terminate(
    id: Id,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Remove a deployment's predictors; its history stays for a while."""
    _verb(lambda controller: controller.terminate(id, wait=not no_wait), address, timeout, as_json)


@app.command("show", epilog=examples("trillium deploy show a1"))
def show(
    id: Id,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Show one deployment, its predictors, and the last output of one that failed."""
    _verb(lambda controller: controller.deployment(id), address, timeout, as_json)


@app.command("list", epilog=examples("trillium deploy list"))
def list_all(
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state: loaded, failed, …")
    ] = None,
    model: Annotated[str, typer.Option(help="Only those of this model.")] = "",
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """List deployments."""
    from trillium.cli import listing
    from trillium.controller.v1 import deployment_pb2 as deployment_pb

    states = listing.states(deployment_pb.State, "STATE_", state or ())
    with controller_at(address, timeout) as controller:
        found = list(controller.deployments(states=states, model=model))
    listing.show(found, listing.deployments, as_json)


@app.command("watch", epilog=examples("trillium deploy watch a1"))
def watch(
    id: Annotated[str, typer.Argument(help="Only this one.", show_default=False)] = "",
    address: ControllerAddress = CONTROLLER,
    as_json: Json = False,
) -> None:
    """Show deployments, then each change of them, until Ctrl-C."""
    from trillium.cli import listing
    from trillium.cli.show import Screen

    screen = Screen()
    with controller_at(address) as controller:
        for change in controller.watch_deployments(id):
            if as_json:
                screen.json(listing.plain(change))
            elif change.HasField("deployment"):
                screen.event(listing.deployment_line(change.deployment))
            elif change.forgotten:
                screen.event(f"{change.forgotten} is forgotten")


@app.command("history", epilog=examples("trillium deploy history a1"))
def history(
    id: Id,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """List the history of a deployment, oldest first."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = list(controller.events(id))
    listing.show(found, listing.events, as_json)


def servers(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List the machines and engines that run predictors, and what is free there."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = controller.servers()
    listing.show(found, listing.servers, as_json)


def _verb(
    ask: Callable[[ControllerClient], deployment_pb.Deployment],
    address: str,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    from trillium.cli import listing

    with controller_at(address, timeout_s) as controller, waiting("waiting for the controller"):
        deployment = ask(controller)
    listing.show_deployment(deployment, as_json)
