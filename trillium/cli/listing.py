"""Messages of the controller as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from trillium.cli.plain import PlainTable
from trillium.cli.show import Screen, moment
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as ensemble_pb
from trillium.controller.v1 import run_service_pb2 as run_pb

_STYLES = {
    "loaded": "green",
    "serving": "green",
    "succeeded": "green",
    "failed": "red",
    "backoff": "red",
    "timed-out": "red",
    "terminated": "dim",
    "cancelled": "dim",
}
M = TypeVar("M", bound=Message)


def show(found: Sequence[M], table: Callable[[Sequence[M]], Table], as_json: bool) -> None:
    """Print messages: as JSON one a line, else as a table."""
    screen = Screen()
    if not as_json:
        screen.table(table(found))
        return
    for each in found:
        screen.json(plain(each))


def show_deployment(deployment: deployment_pb.Deployment, as_json: bool) -> None:
    """Print one deployment and its predictors."""
    screen = Screen()
    if as_json:
        screen.json(plain(deployment))
        return
    screen.table(deployments([deployment]))
    if deployment.instances:
        screen.table(instances([deployment]))
    for condition in deployment.conditions:
        if not condition.holds:
            screen.problem(f"not {_words(condition.type)}: {condition.detail}")
    for each in deployment.instances:
        if each.log_tail:
            screen.say(f"last output of instance {each.slot}:\n{each.log_tail}")


def plain(message: Message) -> dict[str, Any]:
    """A message in protobuf's JSON form, with the names of the protos."""
    return MessageToDict(message, preserving_proto_field_name=True)


def states(enum: Any, prefix: str, words: Iterable[str]) -> list[Any]:
    """The values of an enum that words such as "loaded" stand for; else typer.BadParameter."""
    known = {_words(name.removeprefix(prefix)): value for name, value in enum.items() if value}
    for word in words:
        if word.lower() not in known:
            raise typer.BadParameter(f"expected one of {', '.join(known)}, got {word!r}")
    return [known[word.lower()] for word in words]


def state_of(message: deployment_pb.Deployment | run_pb.Run) -> str:
    """Its state in a word."""
    if isinstance(message, run_pb.Run):
        return _words(run_pb.RunState.Name(message.state).removeprefix("RUN_STATE_"))
    return _words(deployment_pb.State.Name(message.state).removeprefix("STATE_"))


def deployment_line(deployment: deployment_pb.Deployment) -> str:
    """A deployment in one line."""
    what = f"{deployment.model} v{deployment.model_version}"
    line = f"{deployment.name} ({what}) is {state_of(deployment)}"
    return f"{line}: {deployment.detail}" if deployment.detail else line


def deployments(found: Sequence[deployment_pb.Deployment]) -> Table:
    """Deployments, one per row."""
    headings = ("deployment", "model", "state", "serving", "model digest", "changed", "detail")
    table = _table(headings, folding=("deployment", "detail"))
    for each in found:
        serving = sum(one.phase == deployment_pb.INSTANCE_PHASE_SERVING for one in each.instances)
        table.add_row(
            each.name.removeprefix("deployments/"),
            f"{each.model} v{each.model_version}",
            _styled(state_of(each)),
            f"{serving} of {each.replica_count}",
            each.model_digest[:12],
            _when(each.update_time),
            Text(each.detail),
        )
    return table


def instances(found: Sequence[deployment_pb.Deployment]) -> Table:
    """Every predictor of these deployments."""
    headings = ("predictor", "attempt", "phase", "address", "container", "digest", "since", "why")
    table = _table(headings, folding=("predictor", "address", "why"))
    for deployment in found:
        for each in deployment.instances:
            phase = deployment_pb.InstancePhase.Name(each.phase)
            table.add_row(
                f"{deployment.name.removeprefix('deployments/')}/{each.slot}",
                str(each.attempt),
                _styled(_words(phase.removeprefix("INSTANCE_PHASE_"))),
                each.address,
                each.container_id[:12],
                each.model_digest[:12],
                _when(each.phase_time),
                Text(each.reason),
            )
    return table


def events(found: Sequence[pb.DeploymentEvent]) -> Table:
    """The history of a deployment."""
    headings = ("#", "time", "instance", "attempt", "before", "after", "cause")
    table = _table(headings, folding=("cause",))
    for each in found:
        slotted = each.HasField("slot")
        table.add_row(
            str(each.number),
            _when(each.time),
            str(each.slot) if slotted else "",
            str(each.attempt) if slotted else "",
            each.before,
            _styled(each.after),
            Text(each.cause),
        )
    return table


def show_ensemble(ensemble: ensemble_pb.Ensemble, as_json: bool) -> None:
    """Print one ensemble and its classes."""
    screen = Screen()
    if as_json:
        screen.json(plain(ensemble))
        return
    screen.table(ensembles([ensemble]))
    if ensemble.classes:
        screen.table(classes(ensemble.classes))


def ensembles(found: Sequence[ensemble_pb.Ensemble]) -> Table:
    """Ensembles, one per row."""
    headings = ("ensemble", "state", "serving", "since", "kept loaded", "classes", "detail")
    table = _table(headings, folding=("ensemble", "serving", "classes", "detail"))
    for each in found:
        state = ensemble_pb.EnsembleState.Name(each.state).removeprefix("ENSEMBLE_STATE_")
        until = _when(each.rest_end_time)
        resting = ", ".join(map(str, each.resting_revisions))
        labels = [one.class_label for one in each.classes]
        table.add_row(
            each.name.removeprefix("ensembles/"),
            _styled(_words(state)),
            _shares(each),
            _when(each.serve_time),
            f"{resting} until {until}" if resting else "",
            Text(", ".join(labels) if len(labels) <= 5 else str(len(labels))),
            Text(each.detail),
        )
    return table


def _shares(ensemble: ensemble_pb.Ensemble) -> str:
    if len(ensemble.traffic) == 1:
        return f"revision {ensemble.traffic[0].revision}"
    return ", ".join(f"{each.percent} % revision {each.revision}" for each in ensemble.traffic)


def classes(found: Sequence[ensemble_pb.EnsembleClass]) -> Table:
    """The classes of one ensemble."""
    headings = ("class", "model", "digest", "serving", "deployment", "detail")
    table = _table(headings, folding=("class", "model", "deployment", "detail"))
    for each in found:
        table.add_row(
            Text(each.class_label),
            f"{each.model} v{each.model_version}",
            each.model_digest[:12],
            f"{each.ready_count} of {each.replica_count}",
            each.deployment.removeprefix("deployments/"),
            Text(each.detail),
        )
    return table


def revisions(found: Sequence[ensemble_pb.EnsembleRevision]) -> Table:
    """The revisions of one ensemble."""
    headings = ("revision", "state", "made", "models", "note", "failure")
    table = _table(headings, folding=("models", "note", "failure"))
    for each in found:
        state = ensemble_pb.RevisionState.Name(each.state).removeprefix("REVISION_STATE_")
        models = [f"{one.model}@{one.model_version}" for one in each.classes]
        table.add_row(
            str(each.number),
            _styled(_words(state)),
            _when(each.create_time),
            Text(", ".join(models)),
            Text(each.note),
            Text(each.failure),
        )
    return table


def show_changes(
    old: ensemble_pb.EnsembleRevision, new: ensemble_pb.EnsembleRevision, as_json: bool
) -> None:
    """Print what differs between two revisions, class by class."""
    screen = Screen()
    was = {each.class_label: (at, each) for at, each in enumerate(old.classes, 1)}
    is_ = {each.class_label: (at, each) for at, each in enumerate(new.classes, 1)}
    table = _table(
        ("class", f"revision {old.number}", f"revision {new.number}"), folding=("class",)
    )
    rows = []
    for label in dict.fromkeys([*is_, *was]):
        before, after = was.get(label), is_.get(label)
        if before is None or after is None or _differ(before, after):
            rows.append((label, _placed(before), _placed(after)))
    for label, left, right in rows:
        if as_json:
            screen.json({"class_label": label, "old": left, "new": right})
        table.add_row(Text(label), left, right)
    if not as_json:
        screen.table(table) if rows else screen.say("the same classes, models and order")


_Placed = tuple[int, ensemble_pb.RevisionClass]


def _differ(one: _Placed, other: _Placed) -> bool:
    return (one[0], one[1].model_digest) != (other[0], other[1].model_digest)


def _placed(placed: _Placed | None) -> str:
    if placed is None:
        return ""
    place, found = placed
    return f"{place}: {found.model}@{found.model_version}"


def runs(found: Sequence[run_pb.Run]) -> Table:
    """Runs, one per row."""
    headings = ("run", "model", "dataset", "on", "state", "rows", "accuracy", "created", "detail")
    table = _table(headings, folding=("run", "on", "detail"))
    for each in found:
        evaluated = each.HasField("evaluation")
        table.add_row(
            each.name.removeprefix("runs/"),
            f"{each.model} v{each.model_version}",
            f"{each.dataset} v{each.dataset_version}",
            "its own" if each.temporary else each.deployment.removeprefix("deployments/"),
            _styled(state_of(each)),
            f"{each.rows_done} of {each.rows_total}",
            f"{each.evaluation.accuracy:.3f}" if evaluated else "",
            _when(each.create_time),
            Text(each.detail),
        )
    return table


def results(found: Sequence[run_pb.Result]) -> Table:
    """Scores of rows."""
    table = _table(("row", "probability", "label"))
    for each in found:
        table.add_row(str(each.row), f"{each.probability:.4f}", Text(each.label))
    return table


def models(found: Sequence[catalog_pb.Model]) -> Table:
    """Every model with its newest version."""
    headings = ("model", "class", "ensemble", "newest", "model digest", "bytes", "registered")
    table = _table((*headings, "features"), folding=("model", "features"))
    for each in found:
        newest = each.versions[-1]
        table.add_row(
            each.name,
            each.class_label,
            each.ensemble,
            f"v{newest.version}",
            newest.digest[:12],
            str(newest.size_bytes),
            _when(newest.create_time),
            _features(newest.feature_names, newest.feature_count),
        )
    return table


def datasets(found: Sequence[catalog_pb.Dataset]) -> Table:
    """Every dataset with its newest version."""
    headings = ("dataset", "newest", "rows", "labelled", "digest", "registered", "features")
    table = _table(headings, folding=("dataset", "features"))
    for each in found:
        newest = each.versions[-1]
        table.add_row(
            each.name,
            f"v{newest.version}",
            str(newest.row_count),
            "yes" if newest.labelled else "no",
            newest.digest[:12],
            _when(newest.create_time),
            _features(newest.feature_names, len(newest.feature_names)),
        )
    return table


def servers(found: Sequence[pb.Server]) -> Table:
    """Every machine or engine that runs predictors."""
    headings = ("server", "runtime", "reachable", "cores free", "memory free", "predictors")
    table = _table((*headings, "detail"), folding=("server", "detail"))
    for each in found:
        memory = f"{each.memory_bytes_free / 2**30:.1f} of {each.memory_bytes / 2**30:.1f} GiB"
        table.add_row(
            each.name,
            each.runtime,
            Text("yes", style="green") if each.reachable else Text("no", style="red"),
            f"{each.cpus_free:g} of {each.cpus:g}",
            memory,
            str(each.container_count),
            Text(each.detail),
        )
    return table


def _table(headings: Sequence[str], *, folding: Sequence[str] = ()) -> Table:
    table = PlainTable()
    for heading in headings:
        table.add_column(heading, no_wrap=heading not in folding, overflow="fold")
    return table


def _features(names: Sequence[str], count: int) -> Text:
    return Text(", ".join(names) if 0 < len(names) <= 5 else str(count))


def _styled(state: str) -> Text:
    return Text(state, style=_STYLES.get(state.lower(), ""))


def _words(constant: str) -> str:
    return constant.lower().replace("_", "-")


def _when(time: Timestamp) -> str:
    if not time.seconds:
        return ""
    when: datetime = time.ToDatetime(UTC)
    return moment(when)
