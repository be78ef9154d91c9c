"""What to do next for an ensemble, from its document and its deployments: pure.

`step` answers a `Write`, which is carried out by compare-and-set on the document that was read, or
`Commands` for its deployments, or `Forget`, or `Rest`. Commands may be carried out late, twice or
not at all, and by several controllers; see `Hold` for why that is harmless. **The deployments are
to be read before the ensemble.**

A revision that serves is held until a write takes it out; that write and a switch are made by
compare-and-set on one document, so no deployment is released that a switch has just come to need.
Tests walk every reachable state with two controllers to show that this holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from ..deployments.document import Deployment, State, Target
from ..deployments.verbs import Command, Verb
from .document import (
    ClassModel,
    EnsembleDocument,
    EnsembleRevision,
    Hold,
    Need,
    Owned,
    hold_for,
    is_ready,
    spec_of,
    unprepared,
)

_LONGEST_NAME, _LONGEST_LABEL = 14, 10


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to do before `until`, unless something changes."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Write the document."""

    ensemble: EnsembleDocument
    cause: str


@dataclass(frozen=True, slots=True)
class Commands:
    """Have deployments changed; at least one."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete the document: nothing is left."""


Step: TypeAlias = Pause | Write | Commands | Forget


def step(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    """The next step. `owned` are the live deployments of the ensemble, read before it was."""
    if (write := _failed(ensemble, owned) or _switched(ensemble, owned, now)) is not None:
        return write
    if (write := _rested(ensemble, now) or _held(ensemble, owned)) is not None:
        return write
    if commands := _commands(ensemble, owned):
        return Commands(tuple(commands))
    if ensemble.target is Target.ABSENT and not owned:
        return Forget()
    return Pause(ensemble.resting_until)


def _switched(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Write | None:
    """What is desired comes to serve, once all of it is ready; or nothing serves any more."""
    wanted = ensemble.wanted if ensemble.target is Target.LOADED else ()
    if ensemble.serving == wanted:
        return None
    if any(_missing(ensemble, share.revision, owned) for share in wanted):
        return None
    still = {share.revision for share in wanted}
    left = tuple(each.revision for each in ensemble.serving if each.revision not in still)
    window_s = ensemble.rollback_window_s if wanted else 0.0
    # A mere shift of shares leaves what rests as it is.
    resting = left or tuple(each for each in ensemble.resting if each not in still)
    until = now + timedelta(seconds=window_s) if left else ensemble.resting_until
    keeps = bool(resting) and window_s > 0
    most = ensemble.serving[0].revision if ensemble.serving else 0
    is_other = bool(wanted) and most != wanted[0].revision
    return Write(
        replace(
            ensemble,
            serving=wanted,
            serving_since=now,
            before=most if is_other else ensemble.before,
            resting=resting if keeps else (),
            resting_until=until if keeps else None,
            updated=now,
        ),
        "switched",
    )


def _missing(ensemble: EnsembleDocument, number: int, owned: Owned) -> bool:
    revision = ensemble.revision(number)
    return revision is None or bool(unprepared(ensemble, revision, owned))


def _failed(ensemble: EnsembleDocument, owned: Owned) -> Write | None:
    """A revision that cannot be prepared is given up, and what serves goes on."""
    if ensemble.target is not Target.LOADED:
        return None
    serving = {share.revision for share in ensemble.serving}
    for share in ensemble.wanted:
        revision = ensemble.revision(share.revision)
        if share.revision in serving or revision is None:
            continue
        failure = _failure(ensemble, revision, owned)
        if failure:
            failed = replace(revision, failure=failure)
            revisions = tuple(failed if each is revision else each for each in ensemble.revisions)
            given_up = replace(ensemble, revisions=revisions, wanted=ensemble.serving)
            return Write(given_up, f"revision {revision.number} failed: {failure}")
    return None


def _failure(ensemble: EnsembleDocument, revision: EnsembleRevision, owned: Owned) -> str:
    for model in revision.classes:
        hold = hold_for(ensemble.holds, ensemble.need_of(model))
        deployment = None if hold is None else owned.get(hold.deployment)
        if deployment is None or deployment.state is not State.FAILED:
            continue
        if ensemble.retry_id in deployment.requests and not is_ready(deployment, model.digest):
            return f"{model.class_label}: {deployment.detail or 'its predictor failed'}"
    return ""


def _rested(ensemble: EnsembleDocument, now: datetime) -> Write | None:
    """Revisions that were kept for a rollback go when their time is over."""
    until = ensemble.resting_until
    if not ensemble.resting or (until is not None and now < until):
        return None
    return Write(replace(ensemble, resting=(), resting_until=None), "the rollback window is over")


def _held(ensemble: EnsembleDocument, owned: Owned) -> Write | None:
    """Hold what is needed, and nothing else."""
    needed = _needed(ensemble)
    holds = [each for each in ensemble.holds if _is_needed(each, needed, ensemble, owned)]
    last = ensemble.last_hold
    for need, model in needed.items():
        if hold_for(holds, need) is None:
            last += 1
            id = deployment_id(ensemble, model.class_label, last)
            holds.append(Hold(id, need, model.model, model.version, model.class_label))
    if tuple(holds) == ensemble.holds:
        return None
    return Write(replace(ensemble, holds=tuple(holds), last_hold=last), "other deployments needed")


def _needed(ensemble: EnsembleDocument) -> dict[Need, ClassModel]:
    if ensemble.target is Target.ABSENT:
        return {}
    found: dict[Need, ClassModel] = {}
    for number in ensemble.kept_loaded:
        revision = ensemble.revision(number)
        for model in revision.classes if revision is not None else ():
            found.setdefault(ensemble.need_of(model), model)
    return found


def _is_needed(
    hold: Hold, needed: dict[Need, ClassModel], ensemble: EnsembleDocument, owned: Owned
) -> bool:
    """Whether a hold is kept: it is needed, or serves until one with other limits is ready."""
    if hold.need in needed:
        return True
    if not hold.need.loaded or ensemble.target is not Target.LOADED:
        return False
    for need in needed:
        if need.digest == hold.need.digest:
            successor = hold_for(ensemble.holds, need)
            there = None if successor is None else owned.get(successor.deployment)
            return not is_ready(there, need.digest)
    return False


def deployment_id(ensemble: EnsembleDocument, class_label: str, number: int) -> str:
    """The id of a deployment: readable where the names are plain, and never the same again."""
    words = (_plain(ensemble.id, _LONGEST_NAME), _plain(class_label, _LONGEST_LABEL))
    return "-".join([*filter(None, words), ensemble.life, str(number)])


def _plain(name: str, most: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:most].strip("-")


def _commands(ensemble: EnsembleDocument, owned: Owned) -> Sequence[Command]:
    """Commands for the deployments."""
    held = {hold.deployment: hold for hold in ensemble.holds}
    commands = [_told(ensemble, hold, owned.get(id)) for id, hold in held.items()]
    commands += [
        Command(Verb.TERMINATE, id, owner=ensemble.id)
        for id, deployment in owned.items()
        if id not in held and deployment.spec.target is not Target.ABSENT
    ]
    return [each for each in commands if each is not None]


def _told(ensemble: EnsembleDocument, hold: Hold, there: Deployment | None) -> Command | None:
    verb = Verb.LOAD if hold.need.loaded else Verb.CREATE
    target = Target.LOADED if hold.need.loaded else Target.CREATED
    resources = ensemble.resources_of(hold.class_label)
    id, owner, request_id = hold.deployment, ensemble.id, ensemble.retry_id
    if there is None or there.spec.target < target:
        spec = spec_of(hold, resources.replicas)
        return Command(verb, id, spec, request_id, owner=owner)
    if there.state is State.FAILED and request_id not in there.requests:
        return Command(verb, id, None, request_id, owner=owner)
    if there.spec.replicas != resources.replicas:
        return Command(Verb.UPDATE, id, owner=owner, replicas=resources.replicas)
    return None


def ended(id: str, owned: Owned) -> tuple[Command, ...]:
    """Commands for deployments whose ensemble has no document any more."""
    return tuple(
        Command(Verb.TERMINATE, each, owner=id)
        for each, deployment in owned.items()
        if deployment.spec.target is not Target.ABSENT
    )


def without_hold(ensemble: EnsembleDocument, deployment: str) -> EnsembleDocument:
    """The document without that deployment, which somebody else has."""
    return replace(
        ensemble, holds=tuple(each for each in ensemble.holds if each.deployment != deployment)
    )
