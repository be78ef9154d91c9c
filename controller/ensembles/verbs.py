"""What callers may do to an ensemble: each verb as a pure function from document to document.

Every function answers the same object if nothing changes. Nothing but `delete` is allowed once an
ensemble is being deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from trillium.errors import EnsembleChanged, EnsembleNotFound, IllegalStep, RevisionNotFound

from ..deployments.document import Target
from .document import (
    KEPT_REVISIONS,
    ClassModel,
    EnsembleDocument,
    EnsembleRevision,
    Resources,
    Share,
)

REMEMBERED_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Application:
    """What an ensemble is to be."""

    ensemble: str
    classes: tuple[ClassModel, ...]
    resources: Mapping[str, Resources]
    """Of the classes for which they were given; the others keep theirs."""
    traffic: tuple[Share, ...] = ()
    """Empty: all of it for these classes. 0 as a revision is theirs."""
    note: str = ""
    rollback_window_s: float | None = None
    again: bool = False
    """Whether what failed is to be tried again, even if nothing changes."""
    etag: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class EnsembleUpdate:
    """How an ensemble is to be served; what is None stays."""

    resources: Mapping[str, Resources] = field(default_factory=dict)
    """Of classes that change."""
    traffic: tuple[Share, ...] | None = None
    target: Target | None = None
    etag: str = ""
    request_id: str = ""


def apply(
    application: Application, before: EnsembleDocument | None, now: datetime, *, life: str
) -> EnsembleDocument:
    """The document after an application; `life` is for one that begins. Raises IllegalStep,
    EnsembleChanged, RevisionNotFound."""
    if before is None:
        if application.etag:
            text = f"ensemble {application.ensemble!r} is gone since it was read"
            raise EnsembleChanged(text)
        before = EnsembleDocument(application.ensemble, life, created=now, updated=now)
    if application.request_id and application.request_id in before.requests:
        return before
    _check_alive(before)
    check_etag(before, application.etag)
    found = _same(before, application.classes)
    number = before.last_revision + 1 if found is None else found.number
    traffic = application.traffic or (Share(number, 100),)
    wanted = ordered(replace(each, revision=each.revision or number) for each in traffic)
    revisions = before.revisions
    if found is None:
        made = EnsembleRevision(number, application.classes, now, application.note)
        revisions = (*revisions, made)
    window_s = application.rollback_window_s
    after = replace(
        before,
        target=max(before.target, Target.LOADED),
        wanted=_known(wanted, revisions, before.id),
        resources={**before.resources, **application.resources},
        rollback_window_s=before.rollback_window_s if window_s is None else window_s,
        revisions=_tried_again(revisions, wanted),
        last_revision=max(number, before.last_revision),
    )
    return _respecified(before, after, application.request_id, now, again=application.again)


def roll_back(
    before: EnsembleDocument, revision: int, now: datetime, *, request_id: str = ""
) -> EnsembleDocument:
    """The document that wants an earlier revision; 0 is the one that served before. Raises
    IllegalStep, RevisionNotFound."""
    if request_id and request_id in before.requests:
        return before
    _check_alive(before)
    number = revision or before.before
    if not number:
        raise RevisionNotFound(f"no other revision of ensemble {before.id!r} served before")
    wanted = _known((Share(number, 100),), before.revisions, before.id)
    revisions = _tried_again(before.revisions, wanted)
    after = replace(before, wanted=wanted, revisions=revisions, target=Target.LOADED)
    return _respecified(before, after, request_id, now)


def update(before: EnsembleDocument, change: EnsembleUpdate, now: datetime) -> EnsembleDocument:
    """The document after a change of how it is served. Raises IllegalStep, EnsembleChanged,
    RevisionNotFound."""
    if change.request_id and change.request_id in before.requests:
        return before
    _check_alive(before)
    check_etag(before, change.etag)
    wanted, revisions = before.wanted, before.revisions
    if change.traffic is not None:
        wanted = _known(ordered(change.traffic), revisions, before.id)
        revisions = _tried_again(revisions, wanted)
    after = replace(
        before,
        resources={**before.resources, **change.resources},
        wanted=wanted,
        revisions=revisions,
        target=before.target if change.target is None else change.target,
    )
    return _respecified(before, after, change.request_id, now)


def delete(before: EnsembleDocument, now: datetime) -> EnsembleDocument:
    """The document of an ensemble that is to go."""
    return _respecified(before, replace(before, target=Target.ABSENT), "", now)


def etag_of(ensemble: EnsembleDocument) -> str:
    """Changes with everything that callers can change."""
    return f"{ensemble.life}-{ensemble.generation}"


def check_etag(ensemble: EnsembleDocument, etag: str) -> None:
    """Raises EnsembleChanged if it is not the ensemble that a caller has read."""
    if etag and etag != etag_of(ensemble):
        wanted = ", ".join(
            f"revision {each.revision}: {each.percent} %" for each in ensemble.wanted
        )
        text = f"ensemble {ensemble.id!r} has changed since it was read: its etag is"
        what = f"{etag_of(ensemble)!r}, not {etag!r}; wanted now: {wanted or 'nothing'}"
        raise EnsembleChanged(f"{text} {what}; read it and decide again")


def ordered(shares: Iterable[Share]) -> tuple[Share, ...]:
    """Shares as they are kept: one for each revision, and the highest first."""
    percents = Counter[int]()
    for each in shares:
        # Two names may mean one revision: that of an application, and its number.
        percents[each.revision] += each.percent
    merged = [Share(revision, percent) for revision, percent in percents.items()]
    return tuple(sorted(merged, key=lambda each: (-each.percent, -each.revision)))


def not_there(id: str) -> EnsembleNotFound:
    """That there is no such ensemble."""
    return EnsembleNotFound(f"there is no ensemble {id!r}; apply one, or see ListEnsembles")


def revision_of(ensemble: EnsembleDocument, number: int) -> EnsembleRevision:
    """The revision of that number; raises RevisionNotFound."""
    found = ensemble.revision(number)
    if found is None:
        raise _no_revision(ensemble.id, number, ensemble.revisions)
    return found


def _no_revision(id: str, number: int, revisions: Sequence[EnsembleRevision]) -> RevisionNotFound:
    there = ", ".join(str(each.number) for each in revisions) or "none"
    is_old = bool(revisions) and 0 < number < revisions[0].number
    why = "was forgotten" if is_old else "was never made"
    return RevisionNotFound(f"revision {number} of ensemble {id!r} {why}; there: {there}")


def _check_alive(ensemble: EnsembleDocument) -> None:
    if ensemble.target is Target.ABSENT:
        raise IllegalStep(f"ensemble {ensemble.id!r} is being deleted; legal: delete")


def _same(ensemble: EnsembleDocument, classes: tuple[ClassModel, ...]) -> EnsembleRevision | None:
    """The newest revision of the same content: which name and number an artifact has in the
    catalog is none of it."""
    content = [(each.class_label, each.digest) for each in classes]
    for revision in reversed(ensemble.revisions):
        if [(each.class_label, each.digest) for each in revision.classes] == content:
            return revision
    return None


def _known(
    wanted: tuple[Share, ...], revisions: Sequence[EnsembleRevision], id: str
) -> tuple[Share, ...]:
    numbers = {each.number for each in revisions}
    for share in wanted:
        if share.revision not in numbers:
            raise _no_revision(id, share.revision, revisions)
    return wanted


def _tried_again(
    revisions: Sequence[EnsembleRevision], wanted: Sequence[Share]
) -> tuple[EnsembleRevision, ...]:
    numbers = {share.revision for share in wanted}
    return tuple(
        replace(each, failure="") if each.failure and each.number in numbers else each
        for each in revisions
    )


def _respecified(
    before: EnsembleDocument,
    after: EnsembleDocument,
    request_id: str,
    now: datetime,
    *,
    again: bool = False,
) -> EnsembleDocument:
    changed = again or after != before or not after.generation
    if request_id:
        requests = (*after.requests, request_id)[-REMEMBERED_REQUESTS:]
        after = replace(after, requests=requests)
    elif not changed:
        return before
    if changed:
        after = replace(after, generation=before.generation + 1, updated=now)
    return replace(after, revisions=_pruned(after))


def _pruned(ensemble: EnsembleDocument) -> tuple[EnsembleRevision, ...]:
    loaded = {*ensemble.kept_loaded, ensemble.before}
    kept = {each.number for each in ensemble.revisions[-KEPT_REVISIONS:]} | loaded
    return tuple(each for each in ensemble.revisions if each.number in kept)
