"""`trillium apply` and `trillium ensembles …`: what users own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trillium.cli.options import (
    CONTROLLER,
    ControllerAddress,
    DryRun,
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
    from trillium.cli.ensemble_file import EnsembleFile
    from trillium.client.controller import ControllerClient
    from trillium.controller.v1 import ensemble_service_pb2 as pb

app = new_group("List, roll back, scale, split and delete ensembles; `trillium apply` makes them.")

EXIT_CHANGES = 2
"""Of `apply --plan`: something would change."""

EnsembleId = Annotated[str, typer.Argument(help="Id of the ensemble.", show_default=False)]


def apply(
    file: Annotated[Path, typer.Argument(help="YAML file of an ensemble.", show_default=False)],
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only show what would change; exit with 2 if anything would, else 0."
        ),
    ] = False,
    note: Annotated[str, typer.Option(help="For the history, in place of the file's.")] = "",
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Make an ensemble what a file describes; the same again changes nothing."""
    from trillium.cli import ensemble_file

    try:
        content = ensemble_file.read(file)
    except ensemble_file.FileWrong as error:
        raise typer.BadParameter(f"{file}: {error}") from error
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error
    if note:
        content.request.note = note
    with controller_at(address, timeout) as controller:
        _find_artifacts(controller, content, file, may_register=not plan)
        _split(controller, content, file)
        if plan:
            _show_plan(controller.plan_ensemble(content.request), as_json)
            return
        content.request.no_wait = no_wait
        with waiting("waiting for the controller"):
            ensemble = controller.send_application(content.request)
    _show(ensemble, as_json)


def _find_artifacts(
    controller: ControllerClient, content: EnsembleFile, file: Path, *, may_register: bool
) -> None:
    """Name the versions of files: each is registered unless it is already."""
    import hashlib

    known = {}
    if content.artifacts:
        models = controller.models()
        known = {(m.name, v.digest): v.version for m in models for v in m.versions}
    for index, artifact in content.artifacts.items():
        asked = content.request.classes[index]
        at = f"{file}: classes[{index}].model"
        try:
            digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
        except OSError as error:
            text = f"{at}: {artifact} cannot be read: {error.strerror}"
            raise typer.BadParameter(text) from error
        version = known.get((asked.model, digest))
        if version is None and not may_register:
            text = f"{at}: {artifact} is not registered, and --plan changes nothing"
            how = f"trillium models register {asked.model} {artifact}"
            raise typer.BadParameter(f"{text}; first run: {how}")
        if version is None:
            with waiting(f"registering {artifact.name}"):
                version = controller.register_model(asked.model, artifact).version
        asked.model_version = version


def _split(controller: ControllerClient, content: EnsembleFile, file: Path) -> None:
    """Number the revisions that the file calls latest and previous."""
    from trillium.cli.ensemble_file import LATEST, PREVIOUS

    for name, percent in content.traffic.items():
        number = name if isinstance(name, int) else 0
        if name == PREVIOUS:
            number = _previous(controller, content.request)
            if not number:
                text = "no other revision has served before; give all to latest"
                raise typer.BadParameter(f"{file}: traffic.{PREVIOUS}: {text}")
        assert number or name == LATEST
        content.request.traffic.add(revision=number, percent=percent)


def _previous(controller: ControllerClient, request: pb.ApplyEnsembleRequest) -> int:
    """The revision with most requests besides the one of a request; 0 if there is none."""
    from trillium.errors import EnsembleNotFound

    try:
        now = controller.get_ensemble(request.ensemble_id)
    except EnsembleNotFound:
        return 0
    own = controller.plan_ensemble(request).revision
    others = [each.revision for each in now.desired_traffic if each.revision != own]
    return next(iter([*others, *now.resting_revisions]), 0)


def _show_plan(plan: pb.PlanEnsembleResponse, as_json: bool) -> None:
    from trillium.cli import listing
    from trillium.cli.show import Screen

    screen = Screen()
    if as_json:
        screen.json(listing.plain(plan))
    elif not plan.changes:
        screen.say("nothing would change")
    else:
        what = "a new revision" if plan.is_new_revision else "revision"
        screen.say(f"{what} {plan.revision} would serve:")
        for line in plan.differences:
            screen.say(f"  {line}")
        for verb, models in (("start", plan.started), ("stop", plan.stopped)):
            if models:
                screen.say(f"predictors to {verb}: {', '.join(models)}")
    if plan.changes:
        raise typer.Exit(EXIT_CHANGES)


@app.command("list", epilog=examples("trillium ensembles list"))
def list_all(
    address: ControllerAddress = CONTROLLER, timeout: Patience = None, as_json: Json = False
) -> None:
    """List ensembles."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = list(controller.ensembles())
    listing.show(found, listing.ensembles, as_json)


@app.command("get", epilog=examples("trillium ensembles get iris"))
def get(
    id: EnsembleId,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Show one ensemble and its classes."""
    _ask(lambda controller: controller.get_ensemble(id), address, timeout, as_json)


@app.command("history", epilog=examples("trillium ensembles history iris"))
def history(
    id: EnsembleId,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """List the revisions of an ensemble, the newest first."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        found = controller.ensemble_revisions(id)
    listing.show(found, listing.revisions, as_json)


@app.command(
    "diff", epilog=examples("trillium ensembles diff iris 3", "trillium ensembles diff iris 2 4")
)
def diff(
    id: EnsembleId,
    old: Annotated[int, typer.Argument(min=1, help="Revision.", show_default=False)],
    new: Annotated[
        int,
        typer.Argument(min=0, help="Revision to compare it with.", show_default="the newest"),
    ] = 0,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two revisions."""
    from trillium.cli import listing

    with controller_at(address, timeout) as controller:
        number = new or controller.ensemble_revisions(id)[0].number
        before = controller.ensemble_revision(id, old)
        after = controller.ensemble_revision(id, number)
    listing.show_changes(before, after, as_json)


@app.command(
    "rollback",
    epilog=examples("trillium ensembles rollback iris", "trillium ensembles rollback iris --to 3"),
)
def rollback(
    id: EnsembleId,
    to: Annotated[
        int, typer.Option(min=0, help="Revision.", show_default="the one that served before")
    ] = 0,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Serve an earlier revision again; at once while it is still loaded."""
    _ask(
        lambda controller: controller.roll_back_ensemble(id, to, wait=not no_wait),
        address,
        timeout,
        as_json,
    )


@app.command("scale", epilog=examples("trillium ensembles scale iris --class setosa --replicas 3"))
def scale(
    id: EnsembleId,
    class_label: Annotated[
        str, typer.Option("--class", help="Class.", show_default="every class")
    ] = "",
    replicas: Annotated[
        int, typer.Option(min=0, max=64, help="Number of predictors.", show_default="as it is")
    ] = 0,
    cpus: Annotated[float | None, typer.Option(help="Cores that each may use.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory that each may use: 512MiB.")] = None,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Change how many predictors answer, or what each may use, without a failed call."""
    from trillium.controller.v1 import deployment_pb2 as deployment_pb

    limits = None
    if cpus is not None or memory is not None:
        memory_bytes = None if memory is None else bytes_of(memory)
        if memory is not None and memory_bytes is None:
            text = f"expected a size such as 512MiB or 1.5GiB, got {memory!r}"
            raise typer.BadParameter(text, param_hint="--memory")
        limits = deployment_pb.Limits(cpus=cpus, memory_bytes=memory_bytes)
    if not replicas and limits is None:
        raise typer.BadParameter("give --replicas, --cpus or --memory")

    def ask(controller: ControllerClient) -> pb.Ensemble:
        return controller.scale_ensemble(
            id, class_label=class_label, replicas=replicas, limits=limits, wait=not no_wait
        )

    _ask(ask, address, timeout, as_json)


@app.command("traffic", epilog=examples("trillium ensembles traffic iris 5=90 4=10"))
def traffic(
    id: EnsembleId,
    shares: Annotated[list[str], typer.Argument(help="REVISION=PERCENT, together 100.")],
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Have each revision answer its percent of the requests."""
    wanted = dict(map(_share, shares))
    _ask(
        lambda controller: controller.split_ensemble(id, wanted, wait=not no_wait),
        address,
        timeout,
        as_json,
    )


def _share(text: str) -> tuple[int, int]:
    revision, _, percent = text.partition("=")
    if not (revision.isdecimal() and percent.isdecimal() and len(text) < 20):
        raise typer.BadParameter(f"expected REVISION=PERCENT, such as 5=90, got {text!r}")
    return int(revision), int(percent)


@app.command("load", epilog=examples("trillium ensembles load iris"))
def load(
    id: EnsembleId,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Load what was unloaded."""
    _ask(
        lambda controller: controller.load_ensemble(id, wait=not no_wait), address, timeout, as_json
    )


@app.command("unload", epilog=examples("trillium ensembles unload iris"))
def unload(
    id: EnsembleId,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
    as_json: Json = False,
) -> None:
    """Finish the requests in flight and free all models."""
    _ask(
        lambda controller: controller.unload_ensemble(id, wait=not no_wait),
        address,
        timeout,
        as_json,
    )


@app.command("delete", epilog=examples("trillium ensembles delete iris"))
def delete(
    id: EnsembleId,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    address: ControllerAddress = CONTROLLER,
    timeout: Patience = None,
) -> None:
    """Remove an ensemble with its predictors and its history; models stay registered."""
    from trillium.cli.show import Screen

    with controller_at(address, timeout) as controller, waiting("waiting for the controller"):
        gone = controller.delete_ensemble(id, validate_only=dry_run, wait=not no_wait)
    what = f"ensemble {id} and {len(gone)} deployments"
    Screen().say(f"{what} would be deleted" if dry_run else f"{what} are deleted")


def _ask(
    ask: Callable[[ControllerClient], pb.Ensemble],
    address: str,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    with controller_at(address, timeout_s) as controller, waiting("waiting for the controller"):
        ensemble = ask(controller)
    _show(ensemble, as_json)


def _show(ensemble: pb.Ensemble, as_json: bool) -> None:
    from trillium.cli import listing

    listing.show_ensemble(ensemble, as_json)
