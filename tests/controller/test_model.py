"""Every state that two controllers, an engine, predictors, callers and faults can get into.

`python -m tests.controller.model` searches deeper than there is time for here.
"""

from __future__ import annotations

import pytest

from controller.deployments.document import Target
from tests.controller.model.laws import Bounds, Laws
from tests.controller.model.mutations import MUTATIONS
from tests.controller.model.search import search

# What the search runs is all code that other tests cover, and measuring that doubles its time.
pytestmark = [pytest.mark.no_cover, pytest.mark.timeout(900)]

ROLLING = (Target.LOADED,)

SEARCHES = {
    "a late request": Bounds(changes=1, deaths=0, late=1),
    "a death": Bounds(changes=1, deaths=1, late=0),
    "a death and a late request": Bounds(changes=0, deaths=1, late=1),
    "two late requests": Bounds(changes=1, deaths=0, late=2),
    "limits": Bounds(changes=1, deaths=0, late=0, overruns=2),
    "a limit and a death": Bounds(changes=0, deaths=1, late=0, overruns=1, digests=("m1",)),
    "a refused version": Bounds(changes=1, deaths=1, late=0, refused="m2", targets=ROLLING),
    "a model that is refused": Bounds(changes=2, deaths=0, late=0, refused="m1"),
    "a predictor that hangs": Bounds(changes=1, deaths=0, late=0, hangs=1),
    "a predictor that hangs and a late request": Bounds(
        changes=0, deaths=0, late=1, hangs=1, digests=("m1",)
    ),
    "slow loads": Bounds(changes=2, deaths=0, late=0, slow_loads=True),
    "rolling replacement": Bounds(
        instances=2, serving=True, targets=ROLLING, changes=2, deaths=0, late=0, slow_loads=True
    ),
    "rolling replacement and a late request": Bounds(
        instances=2, serving=True, targets=ROLLING, changes=1, deaths=0, late=1, slow_loads=True
    ),
    "rolling replacement and a death": Bounds(
        instances=2, serving=True, targets=ROLLING, changes=1, deaths=1, late=0
    ),
    "other numbers of replicas": Bounds(
        instances=2, serving=True, targets=ROLLING, replicas=(1, 2), changes=2, deaths=0, late=0
    ),
    "other numbers of replicas and a death": Bounds(
        instances=2,
        serving=True,
        targets=ROLLING,
        replicas=(1, 2),
        changes=2,
        deaths=1,
        late=0,
        digests=("m1",),
    ),
    "other numbers of replicas and a late request": Bounds(
        instances=2,
        serving=True,
        targets=ROLLING,
        replicas=(1, 2),
        changes=2,
        deaths=0,
        late=1,
        slow_loads=True,
        digests=("m1",),
    ),
}
DEEP = {
    "late requests and changes": Bounds(changes=2, deaths=0, late=1),
    "deaths": Bounds(changes=1, deaths=2, late=0),
    "a death, a late request and a change": Bounds(changes=1, deaths=1, late=1),
    "a limit, a death and a change": Bounds(
        changes=1, deaths=1, late=0, overruns=1, digests=("m1",)
    ),
    "a refused version and another": Bounds(
        changes=2, deaths=1, late=0, refused="m2", targets=ROLLING
    ),
}
"""Each reaches every state that one of the others does, and more."""


def checked(bounds: Bounds) -> None:
    """Search, print what was found, and find no problem."""
    finding = search(bounds)
    print(finding)
    assert not finding.problem, str(finding)


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_is_doubled_killed_or_stuck_whatever_happens(name: str) -> None:
    checked(SEARCHES[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", DEEP)
def test_nothing_is_doubled_killed_or_stuck_when_more_happens(name: str) -> None:
    checked(DEEP[name])


@pytest.mark.parametrize("name", MUTATIONS)
def test_breaking_a_rule_is_found(name: str) -> None:
    mutation = MUTATIONS[name]
    finding = search(mutation.bounds, mutation.laws)
    print(f"{name}: {finding}")
    assert finding.problem


def test_a_name_may_be_fixed_if_the_labels_tell_the_attempt_and_removal_is_by_id() -> None:
    finding = search(Bounds(changes=1, deaths=1, late=0), Laws(names_tell_attempts=False))
    print(finding)
    assert not finding.problem, str(finding)
