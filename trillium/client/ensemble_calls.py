"""The calls for ensembles as values: what each one sends, and how its answer is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from trillium.client.described import DEFAULT_TIMEOUT_S, VERB_TIMEOUT_S, Stream, Unary, prefixed
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb
from trillium.controller.v1.ensemble_service_pb2_grpc import EnsembleServiceStub

ENSEMBLES = "ensembles/"


class EnsembleCalls:
    """Describes every call of EnsembleService, on either kind of channel."""

    def __init__(self, channel: Any) -> None:
        self._ensembles: Any = EnsembleServiceStub(channel)

    def apply_ensemble(
        self,
        id: str,
        classes: Sequence[str | pb.ApplyClass],
        *,
        traffic: Mapping[int, int] | None = None,
        note: str = "",
        cpus: float | None = None,
        memory_bytes: int | None = None,
        rollback_window_s: float | None = None,
        etag: str = "",
        wait: bool = True,
        request_id: str = "",
    ) -> Unary[pb.Ensemble]:
        """Make an ensemble have these classes: create it, or have it serve a new revision.

        Returns when it serves. The same again changes nothing; no call of an aggregator fails, and
        no answer mixes two revisions.

        Args:
            id: of the ensemble.
            classes: in the order that settles ties: models as "iris-setosa@3", or "iris-setosa" for
                the newest version, or messages, which have more fields.
            traffic: percent of the requests by revision, where 0 is the revision of this call; None
                means that this one gets all.
            note: for the history.
            cpus: CPU cores for each predictor, 0.1 to 64; None leaves it as it is.
            memory_bytes: memory for each predictor, at least 64 MiB; None leaves it as it is.
            rollback_window_s: seconds for which what served before stays loaded; None leaves it as
                it is, which is 600 for a new ensemble.
            etag: if given, that of the ensemble that was read.
            wait: False returns once the request is recorded.
            request_id: makes it safe to send the same request again.

        Raises:
            ModelNotFound, RevisionNotFound, EnsembleFailed, EnsembleChanged, IllegalStep,
            Superseded, RequestIdReused.
            InvalidRequest: with every violation found.
        """
        request = apply_request(
            id,
            classes,
            traffic=traffic,
            note=note,
            cpus=cpus,
            memory_bytes=memory_bytes,
            rollback_window_s=rollback_window_s,
            etag=etag,
        )
        request.request_id, request.no_wait = request_id, not wait
        return self.send_application(request)

    def send_application(self, request: pb.ApplyEnsembleRequest) -> Unary[pb.Ensemble]:
        """`apply_ensemble` with a message that was made before."""
        return Unary(self._ensembles.ApplyEnsemble, request, VERB_TIMEOUT_S)

    def plan_ensemble(self, request: pb.ApplyEnsembleRequest) -> Unary[pb.PlanEnsembleResponse]:
        """Return what applying would change; nothing is changed."""
        plan = pb.PlanEnsembleRequest(apply=request)
        return Unary(self._ensembles.PlanEnsemble, plan)

    def roll_back_ensemble(
        self, id: str, revision: int = 0, *, wait: bool = True, request_id: str = ""
    ) -> Unary[pb.Ensemble]:
        """Serve an earlier revision again, 0 meaning the one that served before.

        It takes no time while that is still loaded. Raises EnsembleNotFound, RevisionNotFound,
        EnsembleFailed, IllegalStep, Superseded.
        """
        request = pb.RollBackEnsembleRequest(
            name=prefixed(ENSEMBLES, id),
            revision=revision,
            request_id=request_id,
            no_wait=not wait,
        )
        return Unary(self._ensembles.RollBackEnsemble, request, VERB_TIMEOUT_S)

    def scale_ensemble(
        self,
        id: str,
        *,
        class_label: str = "",
        replicas: int = 0,
        limits: deployment_pb.Limits | None = None,
        wait: bool = True,
    ) -> Unary[pb.Ensemble]:
        """Change how many predictors a class has, or what they may use; "" means every class.

        No call fails. Raises InvalidRequest, EnsembleNotFound, IllegalStep, Superseded.
        """
        update = pb.ClassUpdate(class_label=class_label, replica_count=replicas)
        if limits is not None:
            update.limits.CopyFrom(limits)
        return self._updating(id, wait, classes=[update])

    def split_ensemble(
        self, id: str, traffic: Mapping[int, int], *, wait: bool = True
    ) -> Unary[pb.Ensemble]:
        """Have each revision answer its percent of the requests, together 100.

        Raises InvalidRequest, EnsembleNotFound, RevisionNotFound, EnsembleFailed, Superseded.
        """
        return self._updating(id, wait, traffic=_shares(traffic))

    def load_ensemble(self, id: str, *, wait: bool = True) -> Unary[pb.Ensemble]:
        """Load what `unload_ensemble` unloaded. Raises EnsembleNotFound, Superseded."""
        return self._updating(id, wait, target=deployment_pb.TARGET_LOADED)

    def unload_ensemble(self, id: str, *, wait: bool = True) -> Unary[pb.Ensemble]:
        """Finish the requests in flight and free all models; predictors without a model stay.

        Raises EnsembleNotFound, Superseded.
        """
        return self._updating(id, wait, target=deployment_pb.TARGET_CREATED)

    def _updating(self, id: str, wait: bool, **fields: Any) -> Unary[pb.Ensemble]:
        request = pb.UpdateEnsembleRequest(
            name=prefixed(ENSEMBLES, id),
            no_wait=not wait,
            update_mask=FieldMask(paths=list(fields)),
            **fields,
        )
        return Unary(self._ensembles.UpdateEnsemble, request, VERB_TIMEOUT_S)

    def delete_ensemble(
        self, id: str, *, validate_only: bool = False, wait: bool = True
    ) -> Unary[list[str]]:
        """Unload an ensemble, remove its predictors and forget it; returns their deployments.

        With `validate_only`, only return them. Raises EnsembleNotFound.
        """
        request = pb.DeleteEnsembleRequest(
            name=prefixed(ENSEMBLES, id), validate_only=validate_only, no_wait=not wait
        )
        method = self._ensembles.DeleteEnsemble
        return Unary(method, request, VERB_TIMEOUT_S, lambda answer: list(answer.deployments))

    def get_ensemble(self, id: str) -> Unary[pb.Ensemble]:
        """Return one ensemble. Raises EnsembleNotFound."""
        request = pb.GetEnsembleRequest(name=prefixed(ENSEMBLES, id))
        return Unary(self._ensembles.GetEnsemble, request)

    def ensembles(self) -> Stream[pb.Ensemble]:
        """Iterate over ensembles in the order of their ids."""
        request = pb.ListEnsemblesRequest(page_size=500)
        method = self._ensembles.ListEnsembles
        return Stream(method, request, lambda page: page.ensembles, is_paged=True)

    def ensemble_revisions(self, id: str) -> Unary[list[pb.EnsembleRevision]]:
        """Return the revisions of an ensemble that are kept, the newest first."""
        request = pb.ListEnsembleRevisionsRequest(name=prefixed(ENSEMBLES, id))
        method = self._ensembles.ListEnsembleRevisions
        return Unary(method, request, DEFAULT_TIMEOUT_S, lambda answer: list(answer.revisions))

    def ensemble_revision(self, id: str, number: int) -> Unary[pb.EnsembleRevision]:
        """Return one revision. Raises EnsembleNotFound, RevisionNotFound."""
        name = f"{prefixed(ENSEMBLES, id)}/revisions/{number}"
        request = pb.GetEnsembleRevisionRequest(name=name)
        return Unary(self._ensembles.GetEnsembleRevision, request)


def apply_request(
    id: str,
    classes: Sequence[str | pb.ApplyClass],
    *,
    traffic: Mapping[int, int] | None = None,
    note: str = "",
    cpus: float | None = None,
    memory_bytes: int | None = None,
    rollback_window_s: float | None = None,
    etag: str = "",
) -> pb.ApplyEnsembleRequest:
    """The message of `EnsembleCalls.apply_ensemble`."""
    request = pb.ApplyEnsembleRequest(
        ensemble_id=id,
        classes=[apply_class(each) if isinstance(each, str) else each for each in classes],
        traffic=_shares(traffic or {}),
        note=note,
        rollback_window_s=rollback_window_s,
        etag=etag,
    )
    if cpus is not None or memory_bytes is not None:
        request.limits.CopyFrom(deployment_pb.Limits(cpus=cpus, memory_bytes=memory_bytes))
    return request


def apply_class(model: str) -> pb.ApplyClass:
    """A class by its model: "iris-setosa@3", or "iris-setosa" or "iris-setosa@latest" for the
    newest version. Raises ValueError."""
    name, _, version = model.partition("@")
    if version in ("", "latest"):
        return pb.ApplyClass(model=name)
    if not (version.isascii() and version.isdecimal() and 0 < int(version[:10]) < 2**32):
        raise ValueError(f"{model!r} names no version: expected NAME, NAME@latest or NAME@NUMBER")
    return pb.ApplyClass(model=name, model_version=int(version))


def _shares(traffic: Mapping[int, int]) -> list[pb.TrafficShare]:
    return [pb.TrafficShare(revision=number, percent=p) for number, p in traffic.items()]
