"""EnsembleRepository and revisions as messages."""

from __future__ import annotations

from collections.abc import Iterable

from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb

from ..deployments.document import Deployment, Target
from ..names import DEPLOYMENTS, ENSEMBLES
from .document import (
    ClassModel,
    EnsembleDocument,
    EnsembleRevision,
    Owned,
    Share,
    hold_for,
    serving_count,
)
from .verbs import etag_of

_TARGETS = {target: deployment_pb.Target.Value(f"TARGET_{target.name}") for target in Target}


def ensemble_message(ensemble: EnsembleDocument, owned: Owned) -> pb.Ensemble:
    """An ensemble as its message."""
    classes = [_class(ensemble, model, owned) for model in shown_classes(ensemble)]
    state, detail = _state(ensemble, classes)
    message = pb.Ensemble(
        name=ENSEMBLES + ensemble.id,
        target=_TARGETS[ensemble.target],
        state=state,
        detail=detail,
        traffic=_shares(ensemble.serving),
        desired_traffic=_shares(ensemble.wanted),
        classes=classes,
        resting_revisions=ensemble.resting,
        rollback_window_s=ensemble.rollback_window_s,
        last_revision=ensemble.last_revision,
        etag=etag_of(ensemble),
    )
    if ensemble.resting_until is not None:
        message.rest_end_time.FromDatetime(ensemble.resting_until)
    if ensemble.serving_since is not None:
        message.serve_time.FromDatetime(ensemble.serving_since)
    message.create_time.FromDatetime(ensemble.created)
    message.update_time.FromDatetime(ensemble.updated)
    return message


def shown_classes(ensemble: EnsembleDocument) -> tuple[ClassModel, ...]:
    """The classes of the revision that is desired most, or else of the newest."""
    number = ensemble.wanted[0].revision if ensemble.wanted else ensemble.last_revision
    revision = ensemble.revision(number)
    return () if revision is None else revision.classes


def _state(
    ensemble: EnsembleDocument, classes: Iterable[pb.EnsembleClass]
) -> tuple[pb.EnsembleState.ValueType, str]:
    if ensemble.target is Target.ABSENT:
        return pb.ENSEMBLE_STATE_DELETING, "it is being deleted"
    if ensemble.target is Target.CREATED:
        return pb.ENSEMBLE_STATE_CREATED, ""
    troubles = [f"{each.class_label}: {each.detail}" for each in classes if each.detail]
    if not ensemble.wanted:
        newest = ensemble.revision(ensemble.last_revision)
        failure = "" if newest is None else newest.failure
        return pb.ENSEMBLE_STATE_FAILED, f"revision {ensemble.last_revision}: {failure}"
    if ensemble.serving == ensemble.wanted:
        return pb.ENSEMBLE_STATE_SERVING, "; ".join(troubles)
    return pb.ENSEMBLE_STATE_PREPARING, "; ".join(troubles)


def _class(ensemble: EnsembleDocument, model: ClassModel, owned: Owned) -> pb.EnsembleClass:
    resources = ensemble.resources_of(model.class_label)
    hold = hold_for(ensemble.holds, ensemble.need_of(model))
    deployment = None if hold is None else owned.get(hold.deployment)
    ready = serving_count(deployment, model.digest)
    message = pb.EnsembleClass(
        class_label=model.class_label,
        model=model.model,
        model_version=model.version,
        model_digest=model.digest,
        replica_count=resources.replicas,
        deployment="" if hold is None else DEPLOYMENTS + hold.deployment,
        ready_count=ready,
        detail=_detail(deployment, ready, resources.replicas),
    )
    if resources.cpus is not None or resources.memory_bytes is not None:
        limits = deployment_pb.Limits(cpus=resources.cpus, memory_bytes=resources.memory_bytes)
        message.limits.CopyFrom(limits)
    return message


def _detail(deployment: Deployment | None, ready: int, wanted: int) -> str:
    if deployment is None or ready >= wanted:
        return ""
    return deployment.detail


def revision_message(ensemble: EnsembleDocument, revision: EnsembleRevision) -> pb.EnsembleRevision:
    """A revision as its message."""
    message = pb.EnsembleRevision(
        name=f"{ENSEMBLES}{ensemble.id}/revisions/{revision.number}",
        number=revision.number,
        state=_revision_state(ensemble, revision),
        classes=[
            pb.RevisionClass(
                class_label=each.class_label,
                model=each.model,
                model_version=each.version,
                model_digest=each.digest,
            )
            for each in revision.classes
        ],
        note=revision.note,
        failure=revision.failure,
    )
    message.create_time.FromDatetime(revision.created)
    return message


def _revision_state(
    ensemble: EnsembleDocument, revision: EnsembleRevision
) -> pb.RevisionState.ValueType:
    number = revision.number
    if any(share.revision == number for share in ensemble.serving):
        return pb.REVISION_STATE_SERVING
    if any(share.revision == number for share in ensemble.wanted):
        return pb.REVISION_STATE_PREPARING
    if number in ensemble.resting:
        return pb.REVISION_STATE_RESTING
    return pb.REVISION_STATE_FAILED if revision.failure else pb.REVISION_STATE_RETIRED


def _shares(shares: Iterable[Share]) -> list[pb.TrafficShare]:
    return [pb.TrafficShare(revision=each.revision, percent=each.percent) for each in shares]
