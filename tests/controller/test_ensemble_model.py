"""Every state that ensembles, two controllers, callers and faults can get into."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from controller.deployments.verbs import Command, Verb
from controller.ensembles import steps
from controller.ensembles.document import EnsembleDocument, Owned, Share
from controller.ensembles.steps import Commands, Step, Write
from tests.controller.ensemble_world import EnsembleBounds, EnsembleLaws, EnsembleWorld
from tests.controller.model.search import explore

pytestmark = [pytest.mark.no_cover, pytest.mark.timeout(900)]

SEARCHES = {
    "a rollout and a rollback": EnsembleBounds(changes=2, wishes=("two", "roll back")),
    "a removal of a class, and a rollback": EnsembleBounds(
        changes=2, wishes=("shorter", "roll back"), window_s=0.0
    ),
    "a rollout and the end": EnsembleBounds(changes=2, wishes=("two", "delete")),
    "a revision that is refused": EnsembleBounds(changes=1, wishes=("two",), refused="a2"),
    "a revision that is refused twice": EnsembleBounds(
        changes=2, wishes=("two", "one"), refused="a2", controllers=1
    ),
    "a first revision that is refused": EnsembleBounds(
        changes=1, wishes=("one", "two"), refused="a1"
    ),
    "other limits": EnsembleBounds(changes=1, wishes=("limit",)),
    "other limits and a rollout": EnsembleBounds(
        changes=2, wishes=("limit", "two"), window_s=0.0, controllers=1
    ),
    "unloaded and loaded": EnsembleBounds(changes=2, wishes=("unload", "load"), controllers=1),
    "a death": EnsembleBounds(changes=1, wishes=("two",), deaths=1),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_every_reachable_state_keeps_the_promises(name: str) -> None:
    finding = explore(EnsembleWorld(SEARCHES[name], EnsembleLaws()))
    print(finding)
    assert not finding.problem, str(finding)


def _unready(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    if ensemble.wanted != ensemble.serving and ensemble.holds:
        return Write(replace(ensemble, serving=ensemble.wanted), "switched")
    return steps.step(ensemble, owned, now)


def _newest(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    newest = (Share(ensemble.last_revision, 100),)
    return steps.step(replace(ensemble, wanted=newest), owned, now)


def _by_name(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    taken = steps.step(ensemble, owned, now)
    if isinstance(taken, Write) and len(taken.ensemble.holds) > len(ensemble.holds):
        labels = {hold.class_label for hold in ensemble.holds}
        new = taken.ensemble.holds[len(ensemble.holds) :]
        holds = (*ensemble.holds, *(each for each in new if each.class_label not in labels))
        if holds == ensemble.holds:
            return steps.Pause()
        return Write(replace(taken.ensemble, holds=holds), taken.cause)
    return taken


def _released_unwritten(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    taken = steps.step(ensemble, owned, now)
    if isinstance(taken, Write) and len(taken.ensemble.holds) < len(ensemble.holds):
        kept = {hold.deployment for hold in taken.ensemble.holds}
        gone = [each for each in owned if each not in kept]
        commands = tuple(Command(Verb.TERMINATE, id, owner=ensemble.id) for id in gone)
        return Commands(commands) if commands else taken
    return taken


def _old_limits_go_first(ensemble: EnsembleDocument, owned: Owned, now: datetime) -> Step:
    taken = steps.step(ensemble, owned, now)
    if isinstance(taken, Write) and len(taken.ensemble.holds) > len(ensemble.holds):
        needed = {ensemble.need_of(model) for each in ensemble.revisions for model in each.classes}
        holds = tuple(each for each in taken.ensemble.holds if each.need in needed)
        return Write(replace(taken.ensemble, holds=holds), taken.cause)
    return taken


MUTATIONS = {
    "the ensemble read before the deployments": (
        EnsembleLaws(deployments_first=False),
        EnsembleBounds(changes=1, wishes=("two",)),
    ),
    "a write without compare-and-set": (
        EnsembleLaws(compare_and_set=False),
        EnsembleBounds(changes=2, wishes=("two", "roll back")),
    ),
    "ids used again": (
        EnsembleLaws(fresh_ids=False),
        EnsembleBounds(changes=2, wishes=("two", "one"), window_s=0.0),
    ),
    "switched before it is ready": (
        EnsembleLaws(decide=_unready),
        EnsembleBounds(changes=1, wishes=("two",)),
    ),
    "serving taken from the newest": (
        EnsembleLaws(decide=_newest),
        EnsembleBounds(changes=2, wishes=("two", "roll back")),
    ),
    "reuse by name in place of digest": (
        EnsembleLaws(decide=_by_name),
        EnsembleBounds(changes=1, wishes=("two",)),
    ),
    "released before that is written": (
        EnsembleLaws(decide=_released_unwritten),
        EnsembleBounds(changes=2, wishes=("two", "roll back"), window_s=0.0),
    ),
    "old limits released before the new ones are ready": (
        EnsembleLaws(decide=_old_limits_go_first),
        EnsembleBounds(changes=1, wishes=("limit",)),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_seeded_mistake_is_found(name: str) -> None:
    laws, bounds = MUTATIONS[name]
    finding = explore(EnsembleWorld(bounds, laws))
    print(finding)
    assert finding.problem
