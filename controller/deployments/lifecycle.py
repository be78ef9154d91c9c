"""What to do next for one instance of a deployment, from what is written and what is seen: pure.

`step` answers one `Action`. Those that only write (`Change`) are carried out by compare-and-set on
the deployment that was read; those with an effect outside (`Create`, `Remove`, `Load`, `Unload`)
are carried out only after their intent was written by an earlier `Change`, and may be carried out
late, twice or not at all: the next fresh look decides what is done.

Whatever happens, there is at most one container of the current attempt, and no container that
serves is removed unless its attempt was given up in writing first. The order of the rules below
matters; tests walk every reachable state with two controllers to show that they hold.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ..seen import Seen, SeenContainer, SeenState
from .actions import (
    Action,
    Change,
    Create,
    Load,
    Remove,
    Rest,
    Unload,
    entering,
)
from .document import (
    PUBLISHED,
    Deployment,
    Instance,
    InstancePhase,
    Target,
    has_refused,
    wanted,
)
from .failing import FIRST_PAUSE_S, LONGEST_PAUSE_S, failed
from .view import View

START_LIMIT_S = 60.0
"""A container that has run this long, and whose predictor still does not answer, has failed."""
LOAD_LIMIT_S = 600.0
UNLOAD_LIMIT_S = 60.0
"""How long a predictor may take to finish its last requests and free its model."""
DRAIN_LIMIT_S = 15.0
"""How long the confirmation of aggregators is waited for."""


def step(deployment: Deployment, index: int, seen: Seen, now: datetime) -> Action:
    """The next action for the instance at `index`."""
    instance, want = deployment.instances[index], wanted(deployment.spec, index)
    stale = _stale(instance, seen)
    if stale is not None:
        return Remove(stale.id)
    if seen.containers is not None:
        highest = max((each.attempt for each in seen.containers), default=0)
        if highest > instance.attempt:
            # Only a store that lost writes comes here: give up what it no longer knows.
            given_up = replace(instance, attempt=highest)
            return entering(
                given_up, InstancePhase.REMOVING, now, "found a container of a later attempt"
            )
    return _RULES[instance.phase](
        View(deployment.spec, deployment.instances, index, instance, want, seen, now)
    )


def regards_others(deployment: Deployment, index: int) -> bool:
    """Whether the next action for an instance may depend on what becomes of the deployment's
    others: it waits for its turn to be replaced, or until it is not needed any more."""
    spec, instance = deployment.spec, deployment.instances[index]
    if instance.phase not in PUBLISHED:
        return False
    return wanted(spec, index) is Target.ABSENT or instance.digest != spec.digest


PROBED = frozenset({InstancePhase.IDLE, *PUBLISHED})
"""Phases in which a predictor has nothing to do but to answer."""

_KEEPS_ITS_CONTAINER = frozenset(
    {
        InstancePhase.CREATING,
        InstancePhase.IDLE,
        InstancePhase.LOADING,
        InstancePhase.SERVING,
        InstancePhase.REPLACING,
        InstancePhase.DRAINING,
        InstancePhase.UNLOADING,
    }
)


def _stale(instance: Instance, seen: Seen) -> SeenContainer | None:
    """A container that has no business to be there: of an earlier attempt, or of one given up."""
    keeps = instance.phase in _KEEPS_ITS_CONTAINER
    for each in seen.containers or ():
        if each.attempt < instance.attempt or (each.attempt == instance.attempt and not keeps):
            return each
    return None


def _absent(view: View) -> Action:
    if view.want is Target.ABSENT:
        return Rest()
    return _next_attempt(view, "wanted")


def _next_attempt(view: View, cause: str) -> Change:
    return view.enter(
        InstancePhase.CREATING,
        cause,
        attempt=view.instance.attempt + 1,
        container_id="",
        address="",
        digest="",
        incoming="",
        retry_time=None,
    )


def _creating(view: View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(InstancePhase.REMOVING, "not wanted any more")
    if view.seen.containers is None:
        return view.in_s(1.0)
    instance, container = view.instance, view.container
    if container is None:
        return _died(view) if instance.container_id else Create(instance.attempt)
    if container.state is SeenState.EXITED:
        return _died(view)
    if container.state is SeenState.STARTING:
        return Create(instance.attempt)
    if (instance.container_id, instance.address) != (container.id, container.address):
        where = replace(instance, container_id=container.id, address=container.address)
        return entering(where, InstancePhase.CREATING, view.now, "its container runs")
    if view.seen.predictor is not None:
        return view.enter(InstancePhase.IDLE, "its predictor answers", reason="")
    if view.since() > START_LIMIT_S:
        return failed(view.instance, view.spec, "its predictor did not answer in time", view.now)
    return view.in_s(0.1)


def _idle(view: View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    if view.want is Target.LOADED:
        return view.ordered(InstancePhase.LOADING, "to be loaded", digest=view.spec.digest)
    if view.seen.predictor is not None and view.seen.predictor.digest:
        # Somebody else has loaded it.
        return view.ordered(InstancePhase.UNLOADING, "holds a model that is not wanted")
    return Rest()


def _loading(view: View) -> Action:
    if (ending := _ending(view)) is not None:
        return ending
    if view.want is Target.CREATED:
        return view.ordered(InstancePhase.UNLOADING, "not to be loaded any more")
    if view.instance.digest != view.spec.digest:
        return view.ordered(
            InstancePhase.LOADING, "another version was requested", digest=view.spec.digest
        )
    predictor = view.seen.predictor
    if (
        predictor is not None
        and predictor.digest == view.instance.digest
        and view.has_carried_out()
    ):
        return view.enter(InstancePhase.SERVING, "its predictor serves the model", reason="")
    if view.since() > LOAD_LIMIT_S:
        return failed(view.instance, view.spec, "its model was not loaded in time", view.now)
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Load(view.instance.address, view.instance.digest, view.instance.order)


def _serving(view: View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    if view.want is Target.CREATED:
        return view.enter(InstancePhase.DRAINING, "to be unloaded")
    if view.want is Target.ABSENT:
        return Rest()  # One too many, which is needed until the others serve.
    instance, predictor, new = view.instance, view.seen.predictor, view.spec.digest
    if predictor is not None and predictor.busy:
        predictor = None
    if predictor is not None and predictor.digest != instance.digest:
        if predictor.digest == new:
            # A replacement that was given up has been carried out late.
            return view.enter(
                InstancePhase.SERVING, "its predictor serves the new version", digest=new
            )
        return view.ordered(InstancePhase.LOADING, "its predictor lost the model", digest=new)
    if instance.digest != new and not has_refused(instance, view.spec) and _may_replace(view):
        return view.ordered(InstancePhase.REPLACING, "another version was requested", incoming=new)
    if instance.digest == new and predictor is not None and predictor.fence < instance.order:
        # A replacement that was given up may still be under way: this overtakes it.
        return view.ordered(
            InstancePhase.REPLACING, "the version that it serves was requested", incoming=new
        )
    return Rest()


def _may_replace(view: View) -> bool:
    """Whether no other instance is away: a rolling replacement takes one after the other."""
    others = [
        instance.phase
        for index, instance in enumerate(view.instances)
        if index != view.index
        and (index < view.spec.replicas or instance.phase is InstancePhase.REPLACING)
    ]
    return all(phase in (InstancePhase.SERVING, InstancePhase.FAILED) for phase in others)


def _replacing(view: View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    instance, predictor = view.instance, view.seen.predictor
    if predictor is not None and predictor.digest == instance.incoming and view.has_carried_out():
        cause = "its predictor serves the new version"
        return view.enter(
            InstancePhase.SERVING, cause, digest=instance.incoming, incoming="", reason=""
        )
    if view.want is Target.CREATED:
        return view.enter(InstancePhase.DRAINING, "to be unloaded", incoming="")
    if instance.incoming != view.spec.digest:
        # Still replacing: the predictor may yet come to serve the version requested before.
        return view.ordered(
            InstancePhase.REPLACING, "yet another version was requested", incoming=view.spec.digest
        )
    if view.since() > LOAD_LIMIT_S:
        return view.enter(InstancePhase.SERVING, "the replacement is given up", incoming="")
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Load(instance.address, instance.incoming, instance.order)


def _draining(view: View) -> Action:
    if (ending := _ended(view)) is not None:
        return ending
    predictor = view.seen.predictor
    same = predictor is not None and predictor.digest == view.instance.digest == view.spec.digest
    if view.want is Target.LOADED and same and view.has_carried_out():
        return view.enter(InstancePhase.SERVING, "wanted again")
    if not view.seen.withdrawal_confirmed and view.since() < DRAIN_LIMIT_S:
        return view.in_s(0.1)
    if view.want is Target.ABSENT:
        return view.enter(InstancePhase.REMOVING, "nobody uses it any more")
    return view.ordered(InstancePhase.UNLOADING, "nobody uses it any more")


def _unloading(view: View) -> Action:
    if (ending := _ending(view)) is not None:
        return ending
    predictor = view.seen.predictor
    if predictor is not None and not predictor.digest and view.has_carried_out():
        return view.enter(InstancePhase.IDLE, "its model is freed", digest="")
    if view.since() > UNLOAD_LIMIT_S:
        return failed(view.instance, view.spec, "its model was not freed in time", view.now)
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Unload(view.instance.address, view.instance.order)


def _removing(view: View) -> Action:
    # A container that is still there was stale and has been dealt with.
    if view.seen.containers is None:
        return view.in_s(1.0)
    if view.want is not Target.ABSENT:
        return _next_attempt(view, "wanted again")
    return view.enter(
        InstancePhase.ABSENT,
        "its container is gone",
        container_id="",
        address="",
        digest="",
        incoming="",
        refused="",
        log_tail="",
        failures=0,
        reason="",
    )


def _backoff(view: View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(InstancePhase.REMOVING, "not wanted any more")
    if view.seen.containers is None:
        return view.in_s(1.0)
    renewed = view.instance.generation != view.spec.generation
    retry_time = view.instance.retry_time
    if renewed or retry_time is None or view.now >= retry_time:
        return _next_attempt(view, "another attempt")
    if (retry_time - view.now).total_seconds() > LONGEST_PAUSE_S:
        # Nobody waits that long: the clock of whoever wrote it was ahead of this one.
        return _next_attempt(view, "another attempt")
    return Rest(retry_time)


def _failed(view: View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(InstancePhase.REMOVING, "not wanted any more")
    if view.instance.generation != view.spec.generation:
        fresh = replace(view.instance, failures=0, reason="", refused="", log_tail="")
        return _next_attempt(replace(view, instance=fresh), "asked for again")
    return Rest()


def _ending(view: View) -> Change | None:
    """What all phases with a running container have in common: it died, or is not wanted."""
    if (ended := _ended(view)) is not None:
        return ended
    if view.want is Target.ABSENT:
        if view.instance.phase in (InstancePhase.SERVING, InstancePhase.REPLACING):
            if _is_needed_still(view):
                return None
            return view.enter(InstancePhase.DRAINING, "not wanted any more", incoming="")
        return view.enter(InstancePhase.REMOVING, "not wanted any more")
    return None


def _is_needed_still(view: View) -> bool:
    """Whether one predictor too many goes on serving, since those that are to stay do not yet."""
    if view.spec.target is not Target.LOADED or view.index < view.spec.replicas:
        return False
    needed = view.instances[: view.spec.replicas]
    serving = [each for each in needed if each.phase is InstancePhase.SERVING]
    away = [each for each in needed if each.phase is not InstancePhase.FAILED]
    return not serving or len(serving) < len(away)


def _ended(view: View) -> Change | None:
    container = view.container
    if view.seen.containers is None:
        return None
    if container is None or container.state is SeenState.EXITED:
        return _died(view)
    return None


def _hung(view: View) -> Change | None:
    """The change after the predictor of a container that runs has stopped answering."""
    container, since = view.container, view.seen.silent_since
    if container is None or since is None or view.seen.predictor is not None:
        return None
    why = "its predictor does not answer"
    change = failed(view.instance, view.spec, why, view.now, worked_until=since)
    return replace(change, logs_of=container.id)


def _died(view: View) -> Change:
    container = view.container
    if container is None:
        return _vanished(view)
    why = "its container ended"
    if container.exit_reason:
        why = f"{why}: {container.exit_reason}"
    return replace(failed(view.instance, view.spec, why, view.now), logs_of=container.id)


def _vanished(view: View) -> Change:
    """The change after somebody took the container away, or its runtime began anew.

    That is no fault of the model or the container, so it does not count as a failure.
    """
    same = view.instance.generation == view.spec.generation
    return view.enter(
        InstancePhase.BACKOFF,
        "its container is gone",
        reason="its container is gone",
        failures=view.instance.failures if same else 0,
        generation=view.spec.generation,
        retry_time=view.now + timedelta(seconds=FIRST_PAUSE_S),
        digest="",
        incoming="",
    )


_RULES = {
    InstancePhase.ABSENT: _absent,
    InstancePhase.CREATING: _creating,
    InstancePhase.IDLE: _idle,
    InstancePhase.LOADING: _loading,
    InstancePhase.SERVING: _serving,
    InstancePhase.REPLACING: _replacing,
    InstancePhase.DRAINING: _draining,
    InstancePhase.UNLOADING: _unloading,
    InstancePhase.REMOVING: _removing,
    InstancePhase.BACKOFF: _backoff,
    InstancePhase.FAILED: _failed,
}
