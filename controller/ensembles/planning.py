"""What an application would change, in sentences: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from trillium.controller.v1 import ensemble_service_pb2 as pb

from .document import (
    ClassModel,
    EnsembleDocument,
    EnsembleRevision,
    Need,
    Resources,
    Share,
    hold_for,
)
from .messages import shown_classes
from .verbs import etag_of


def plan_message(
    before: EnsembleDocument | None, after: EnsembleDocument
) -> pb.PlanEnsembleResponse:
    """What leads from `before` to `after`, which an application has made of it."""
    differences = list(_differences(before, after))
    had = set() if before is None else {each.number for each in before.revisions}
    newest = after.wanted[0].revision
    needed, needed_before = _needs(after), {} if before is None else _needs(before)
    held = () if before is None else before.holds
    return pb.PlanEnsembleResponse(
        revision=max((each.revision for each in after.wanted), default=newest),
        is_new_revision=any(each.revision not in had for each in after.wanted),
        changes=before is None or bool(differences),
        differences=differences,
        started=[_named(model) for need, model in needed.items() if hold_for(held, need) is None],
        stopped=[_named(model) for need, model in needed_before.items() if need not in needed],
        etag="" if before is None else etag_of(before),
    )


def _needs(ensemble: EnsembleDocument) -> dict[Need, ClassModel]:
    """What the revisions that are desired need."""
    return {
        ensemble.need_of(model): model
        for share in ensemble.wanted
        if (revision := ensemble.revision(share.revision)) is not None
        for model in revision.classes
    }


def _differences(before: EnsembleDocument | None, after: EnsembleDocument) -> Iterator[str]:
    if before is None:
        yield f"ensemble {after.id!r} is created"
    old = () if before is None else shown_classes(before)
    new = shown_classes(after)
    yield from class_differences(old, new)
    for model in new:
        label = model.class_label
        if any(each.class_label == label for each in old) and before is not None:
            yield from _served(label, before.resources_of(label), after.resources_of(label))
    if before is not None and before.wanted != after.wanted:
        yield f"traffic: {_told(before.wanted)} -> {_told(after.wanted)}"
    if before is not None and before.rollback_window_s != after.rollback_window_s:
        windows = f"{before.rollback_window_s:g} s -> {after.rollback_window_s:g} s"
        yield f"rollback window: {windows}"
    if before is not None and before.target is not after.target:
        yield f"target: {before.target.name} -> {after.target.name}"


def class_differences(old: Iterable[ClassModel], new: Iterable[ClassModel]) -> Iterator[str]:
    """What differs between the classes of two revisions."""
    was, is_ = _by_label(old), _by_label(new)
    for label, model in is_.items():
        if label not in was:
            yield f"class {label} is added: {_named(model)}"
        elif was[label].digest != model.digest:
            yield f"class {label}: {_named(was[label])} -> {_named(model)}"
    for label, model in was.items():
        if label not in is_:
            yield f"class {label} is removed: {_named(model)}"
    kept_before = [label for label in was if label in is_]
    kept_now = [label for label in is_ if label in was]
    if kept_before != kept_now:
        yield f"order of classes: {', '.join(is_)}"


def _by_label(classes: Iterable[ClassModel]) -> Mapping[str, ClassModel]:
    return {each.class_label: each for each in classes}


def _served(label: str, old: Resources, new: Resources) -> Iterator[str]:
    if old.replicas != new.replicas:
        yield f"class {label}: {old.replicas} -> {new.replicas} replicas"
    if (old.cpus, old.memory_bytes) != (new.cpus, new.memory_bytes):
        yield f"class {label}: limits {_limits(old)} -> {_limits(new)}"


def _limits(resources: Resources) -> str:
    cpus = "" if resources.cpus is None else f"{resources.cpus:g} cpus"
    memory = "" if resources.memory_bytes is None else f"{resources.memory_bytes} bytes"
    return ", ".join(filter(None, (cpus, memory))) or "none"


def _told(shares: Iterable[Share]) -> str:
    parts = ", ".join(f"{each.percent} % revision {each.revision}" for each in shares)
    return parts or "none"


def _named(model: ClassModel) -> str:
    return f"{model.model}@{model.version}"


def revision_differences(old: EnsembleRevision, new: EnsembleRevision) -> list[str]:
    """What differs between two revisions."""
    return list(class_differences(old.classes, new.classes))
