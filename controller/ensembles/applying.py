"""Requests for ensembles, checked against the catalog, as what the verbs take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import ensemble_service_pb2 as pb
from trillium.errors import InvalidRequest, ModelNotFound, Violation, quoted
from trillium.violations import Violations

from .. import names
from ..catalog.registered import ModelVersion, RegisteredModel
from ..deployments.document import Target
from ..deployments.limits import MAX_REPLICAS, check_limits, check_replicas
from .document import ClassModel, EnsembleDocument, Resources, Share
from .verbs import Application, EnsembleUpdate

MOST_CLASSES = 1000
LONGEST_WINDOW_S = 86_400.0
LONGEST_NOTE = 200
_MASKABLE = ("classes", "traffic", "target")


class ModelVersions(Protocol):
    """Knows the registered models."""

    async def model_version(
        self, name: str, version: int = 0
    ) -> tuple[RegisteredModel, ModelVersion]:
        """A version of a model, 0 meaning the newest; raises ModelNotFound."""
        ...


def ensemble_id(text: str, field: str = "ensemble_id") -> str:
    """An ensemble's id; raises InvalidRequest."""
    if not text:
        raise InvalidRequest.of(field, "is missing; expected the id of an ensemble, such as 'iris'")
    return names.checked_token(text, field, names.LONGEST_ENSEMBLE_ID)


def id_of(name: str) -> str:
    """The id in "ensembles/{id}"; raises InvalidRequest."""
    if not name.startswith(names.ENSEMBLES):
        raise InvalidRequest.of("name", f"is {quoted(name)}; expected {names.ENSEMBLES}ID")
    return ensemble_id(name.removeprefix(names.ENSEMBLES), "name")


def revision_in(name: str) -> tuple[str, int]:
    """The id and number in "ensembles/{id}/revisions/{number}"; raises InvalidRequest."""
    head, slash, number = name.rpartition("/revisions/")
    if not slash or not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise InvalidRequest.of(
            "name", f"is {quoted(name)}; expected ensembles/ID/revisions/NUMBER"
        )
    return id_of(head), int(number)


async def application_of(
    request: pb.ApplyEnsembleRequest, known: EnsembleDocument | None, models: ModelVersions
) -> Application:
    """What a request asks for. Raises InvalidRequest with every wrong field, ModelNotFound."""
    _check_apply(request)
    found = [await _found(index, each, models) for index, each in enumerate(request.classes)]
    _check_together(request.classes, found)
    classes = tuple(
        ClassModel(model.class_label, model.name, version.version, version.digest)
        for model, version in found
    )
    return Application(
        ensemble=request.ensemble_id,
        classes=classes,
        resources={
            model.class_label: _resources(asked, request, known, model.class_label)
            for asked, model in zip(request.classes, classes, strict=True)
        },
        traffic=shares_of(request.traffic),
        note=request.note,
        rollback_window_s=(
            request.rollback_window_s if request.HasField("rollback_window_s") else None
        ),
        etag=request.etag,
        request_id=request.request_id,
    )


async def _found(
    index: int, asked: pb.ApplyClass, models: ModelVersions
) -> tuple[RegisteredModel, ModelVersion]:
    try:
        return await models.model_version(asked.model, asked.model_version)
    except ModelNotFound as error:
        raise ModelNotFound(f"classes[{index}].model: {error.message}") from error


def _check_apply(request: pb.ApplyEnsembleRequest) -> None:
    violations = Violations()
    violations.check(lambda: ensemble_id(request.ensemble_id))
    violations.check(lambda: names.checked_token(request.request_id, "request_id", 64))
    violations.check(lambda: names.checked_token(request.etag, "etag", 64))
    if not 1 <= len(request.classes) <= MOST_CLASSES:
        text = f"has {len(request.classes)} entries; expected 1 to {MOST_CLASSES}"
        raise InvalidRequest.of("classes", text)
    for index, each in enumerate(request.classes):
        field = f"classes[{index}]"
        if not each.model:
            violations.add(f"{field}.model", "is missing; expected the name of a registered model")
        else:
            violations.check(partial(names.checked_token, each.model, f"{field}.model", 128))
        if each.replica_count:
            violations.extend(check_replicas(each.replica_count, f"{field}.replica_count"))
        violations.extend(check_limits(each.limits, f"{field}.limits"))
    violations.extend(check_limits(request.limits, "limits"))
    violations.extend(_wrong_shares(request.traffic))
    if len(request.note) > LONGEST_NOTE:
        text = f"has {len(request.note)} characters; at most {LONGEST_NOTE} allowed"
        violations.add("note", text)
    window_s = request.rollback_window_s
    if not 0 <= window_s <= LONGEST_WINDOW_S:
        text = f"is {window_s:g}; expected 0 to {LONGEST_WINDOW_S:g} seconds"
        violations.add("rollback_window_s", text)
    violations.raise_any()


def _check_together(
    asked: Sequence[pb.ApplyClass], found: Sequence[tuple[RegisteredModel, ModelVersion]]
) -> None:
    """That each class is there once, is what its model recognizes, and that all models take the
    same features."""
    violations = Violations()
    places: dict[str, int] = {}
    for index, (given, (model, _)) in enumerate(zip(asked, found, strict=True)):
        label = model.class_label
        if given.class_label and given.class_label != label:
            text = f"is {quoted(given.class_label)}; model {model.name!r} recognizes"
            violations.add(f"classes[{index}].class_label", f"{text} {quoted(label)}")
        if label in places:
            text = f"recognizes {quoted(label)}, as classes[{places[label]}] does; each class once"
            violations.add(f"classes[{index}].model", text)
        places.setdefault(label, index)
    first_model, first = found[0]
    for index, (model, version) in enumerate(found):
        if version.feature_count != first.feature_count:
            text = f"{model.name}@{version.version} takes {version.feature_count} features,"
            other = f"{first_model.name}@{first.version} takes {first.feature_count}"
            violations.add(f"classes[{index}].model", f"{text} but {other}")
        elif wrong := _other_names(version.feature_names, first.feature_names):
            text = f"{model.name}@{version.version} differs from {first_model.name}@{first.version}"
            violations.add(f"classes[{index}].model", f"{text} in its features: {wrong}")
    violations.raise_any()


def _other_names(names_: Sequence[str], first: Sequence[str]) -> str:
    if not names_ or not first or tuple(names_) == tuple(first):
        return ""
    for index, (one, other) in enumerate(zip(names_, first, strict=True)):
        if one != other:
            return f"column {index} is {quoted(one)}, not {quoted(other)}"
    return ""


def _resources(
    asked: pb.ApplyClass,
    request: pb.ApplyEnsembleRequest,
    known: EnsembleDocument | None,
    class_label: str,
) -> Resources:
    before = Resources() if known is None else known.resources_of(class_label)
    limits = request.limits if request.HasField("limits") else None
    return resources_of(
        asked.replica_count, asked.limits if asked.HasField("limits") else limits, before
    )


def resources_of(
    replicas: int, limits: deployment_pb.Limits | None, before: Resources
) -> Resources:
    """How a class is to be served; what is not given stays."""
    cpus, memory_bytes = before.cpus, before.memory_bytes
    if limits is not None:
        cpus = limits.cpus if limits.HasField("cpus") else None
        memory_bytes = limits.memory_bytes if limits.HasField("memory_bytes") else None
    return Resources(replicas or before.replicas, cpus, memory_bytes)


def shares_of(traffic: Iterable[pb.TrafficShare]) -> tuple[Share, ...]:
    """Shares of messages that have been checked."""
    return tuple(Share(each.revision, each.percent) for each in traffic)


def _wrong_shares(traffic: Sequence[pb.TrafficShare]) -> Iterable[Violation]:
    if not traffic:
        return
    total = sum(each.percent for each in traffic)
    if total != 100:
        yield Violation("traffic", f"adds up to {total} %; expected 100")
    seen = set[int]()
    for index, each in enumerate(traffic):
        if not 1 <= each.percent <= 100:
            yield Violation(f"traffic[{index}].percent", f"is {each.percent}; expected 1 to 100")
        if each.revision in seen:
            text = f"is {each.revision} again; each revision at most once"
            yield Violation(f"traffic[{index}].revision", text)
        seen.add(each.revision)


def update_of(request: pb.UpdateEnsembleRequest, known: EnsembleDocument) -> EnsembleUpdate:
    """What a request changes. Raises InvalidRequest with every wrong field."""
    violations = Violations()
    violations.check(lambda: names.checked_token(request.request_id, "request_id", 64))
    violations.check(lambda: names.checked_token(request.etag, "etag", 64))
    for index, path in enumerate(request.update_mask.paths):
        if path not in _MASKABLE:
            text = f"is {quoted(path)}; expected one of {', '.join(_MASKABLE)}"
            violations.add(f"update_mask.paths[{index}]", text)
    given = set(request.update_mask.paths) or {
        field.name for field, _ in request.ListFields() if field.name in _MASKABLE
    }
    if not given:
        text = "changes nothing; give one of " + ", ".join(_MASKABLE)
        violations.add("update_mask", text)
    resources: dict[str, Resources] = {}
    if "classes" in given:
        violations.extend(_updated(request.classes, known, resources))
    if "traffic" in given:
        violations.extend(_wrong_shares(request.traffic))
        if not request.traffic:
            violations.add("traffic", "is empty; expected shares that add up to 100")
    targets = {
        deployment_pb.TARGET_CREATED: Target.CREATED,
        deployment_pb.TARGET_LOADED: Target.LOADED,
    }
    if "target" in given and request.target not in targets:
        violations.add("target", "is neither CREATED nor LOADED; DeleteEnsemble ends an ensemble")
    violations.raise_any()
    return EnsembleUpdate(
        resources=resources,
        traffic=shares_of(request.traffic) if "traffic" in given else None,
        target=targets[request.target] if "target" in given else None,
        etag=request.etag,
        request_id=request.request_id,
    )


def _updated(
    updates: Sequence[pb.ClassUpdate], known: EnsembleDocument, resources: dict[str, Resources]
) -> Iterable[Violation]:
    """Puts into `resources` what changes."""
    labels = list(
        dict.fromkeys(
            model.class_label
            for number in known.kept_loaded
            if (revision := known.revision(number)) is not None
            for model in revision.classes
        )
    )
    for index, each in enumerate(updates):
        field = f"classes[{index}]"
        if each.class_label and each.class_label not in labels:
            text = f"is {quoted(each.class_label)}; known classes: {', '.join(labels)}"
            yield Violation(f"{field}.class_label", text)
            continue
        if each.replica_count:
            yield from check_replicas(each.replica_count, f"{field}.replica_count")
        limits = each.limits if each.HasField("limits") else None
        yield from check_limits(each.limits, f"{field}.limits")
        if not each.replica_count and limits is None:
            yield Violation(field, f"changes nothing; give replica_count (1 to {MAX_REPLICAS})")
        for label in [each.class_label] if each.class_label else labels:
            before = resources.get(label, known.resources_of(label))
            resources[label] = resources_of(each.replica_count, limits, before)
