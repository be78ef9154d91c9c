"""What to do next for one slot of a deployment, from what is written and what is seen: pure.

`step` answers one `Action`. Those that only write (`Change`) are carried out by compare-and-set on
the deployment that was read; those with an effect outside (`Create`, `Remove`, `Load`, `Unload`)
are carried out only after their intent was written by an earlier `Change`, and may be carried out
late, twice or not at all: the next fresh look decides what is done.

Whatever happens, there is at most one container of the current attempt, and no container that
serves is removed unless its attempt was given up in writing first. The order of the rules below
matters; tests walk every reachable state with two controllers to show that they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.actions import (
    Action,
    Change,
    Create,
    Load,
    Remove,
    Rest,
    Unload,
    entering,
)
from controller.deployment import (
    PUBLISHED,
    Deployment,
    Phase,
    Slot,
    Spec,
    Target,
    has_refused,
    wanted,
)
from controller.failing import FIRST_PAUSE_S, failed
from controller.seen import ContainerState, Seen, SeenContainer

START_LIMIT_S = 60.0
"""A container that runs for so long, and whose predictor still does not answer, has failed."""
LOAD_LIMIT_S = 600.0
UNLOAD_LIMIT_S = 60.0
"""How long a predictor may take to finish its last requests and free its model."""
DRAIN_LIMIT_S = 15.0
"""How long the confirmation of aggregators is waited for."""


def step(deployment: Deployment, index: int, seen: Seen, now: datetime) -> Action:
    """The next action for the slot at `index`."""
    slot, want = deployment.slots[index], wanted(deployment.spec, index)
    stale = _stale(slot, seen)
    if stale is not None:
        return Remove(stale.id)
    if seen.containers is not None:
        highest = max((each.attempt for each in seen.containers), default=0)
        if highest > slot.attempt:
            # Only a store that lost writes comes here: give up what it no longer knows.
            given_up = replace(slot, attempt=highest)
            return entering(given_up, Phase.REMOVING, now, "found a container of a later attempt")
    return _RULES[slot.phase](
        _View(deployment.spec, deployment.slots, index, slot, want, seen, now)
    )


@dataclass(frozen=True, slots=True)
class _View:
    """All that a rule looks at."""

    spec: Spec
    slots: Sequence[Slot]
    index: int
    slot: Slot
    want: Target
    seen: Seen
    now: datetime

    @property
    def container(self) -> SeenContainer | None:
        """The container of the current attempt, if it was seen.

        A request to create that was carried out late can have made another one after it was gone;
        that is not the one that the endpoint belongs to.
        """
        for each in self.seen.containers or ():
            if each.attempt == self.slot.attempt and self.slot.container_id in ("", each.id):
                return each
        return None

    def enter(self, phase: Phase, cause: str, **changes: object) -> Change:
        return entering(replace(self.slot, **changes), phase, self.now, cause)  # type: ignore[arg-type]

    def ordered(self, phase: Phase, cause: str, **changes: object) -> Change:
        """Enter a phase in which the predictor is given an order: later than every other one of
        the deployment, and than what the predictor says of itself."""
        last = max(slot.order for slot in self.slots)
        fence = 0 if self.seen.predictor is None else self.seen.predictor.fence
        return self.enter(phase, cause, order=max(last, fence) + 1, **changes)

    def has_carried_out(self) -> bool:
        """Whether the predictor has carried out the slot's last order, so that no earlier one can
        have an effect any more, and does nothing else at the moment."""
        predictor = self.seen.predictor
        return predictor is not None and not predictor.busy and predictor.fence >= self.slot.order

    def is_overtaken(self) -> bool:
        """Whether the predictor would refuse the slot's last order: it was given later ones, which
        the document knows nothing of."""
        predictor = self.seen.predictor
        return predictor is not None and predictor.fence > self.slot.order

    def renumbered(self) -> Change:
        """The same order as a later one. The time that it may take begins where it began."""
        change = self.ordered(self.slot.phase, "its predictor has been given later orders")
        return replace(change, slot=replace(change.slot, since=self.slot.since))

    def since(self) -> float:
        """Seconds in this phase."""
        return (self.now - self.slot.since).total_seconds() if self.slot.since else 0.0

    def in_s(self, seconds: float) -> Rest:
        return Rest(self.now + timedelta(seconds=seconds))


PROBED = frozenset({Phase.IDLE, *PUBLISHED})
"""Phases in which a predictor has nothing to do but to answer."""

_KEEPS_ITS_CONTAINER = frozenset(
    {
        Phase.CREATING,
        Phase.IDLE,
        Phase.LOADING,
        Phase.SERVING,
        Phase.REPLACING,
        Phase.DRAINING,
        Phase.UNLOADING,
    }
)


def _stale(slot: Slot, seen: Seen) -> SeenContainer | None:
    """A container that has no business to be there: of an earlier attempt, or of one given up."""
    keeps = slot.phase in _KEEPS_ITS_CONTAINER
    for each in seen.containers or ():
        if each.attempt < slot.attempt or (each.attempt == slot.attempt and not keeps):
            return each
    return None


def _absent(view: _View) -> Action:
    if view.want is Target.ABSENT:
        return Rest()
    return _next_attempt(view, "wanted")


def _next_attempt(view: _View, cause: str) -> Change:
    return view.enter(
        Phase.CREATING,
        cause,
        attempt=view.slot.attempt + 1,
        container_id="",
        address="",
        digest="",
        incoming="",
        retry_time=None,
    )


def _creating(view: _View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(Phase.REMOVING, "not wanted any more")
    if view.seen.containers is None:
        return view.in_s(1.0)
    slot, container = view.slot, view.container
    if container is None:
        return _died(view) if slot.container_id else Create(slot.attempt)
    if container.state is ContainerState.EXITED:
        return _died(view)
    if container.state is ContainerState.STARTING:
        return Create(slot.attempt)
    if (slot.container_id, slot.address) != (container.id, container.address):
        where = replace(slot, container_id=container.id, address=container.address)
        return entering(where, Phase.CREATING, view.now, "its container runs")
    if view.seen.predictor is not None:
        return view.enter(Phase.IDLE, "its predictor answers", reason="")
    if view.since() > START_LIMIT_S:
        return failed(view.slot, view.spec, "its predictor did not answer in time", view.now)
    return view.in_s(0.1)


def _idle(view: _View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    if view.want is Target.LOADED:
        return view.ordered(Phase.LOADING, "to be loaded", digest=view.spec.digest)
    if view.seen.predictor is not None and view.seen.predictor.digest:
        # Somebody else has loaded it.
        return view.ordered(Phase.UNLOADING, "holds a model that is not wanted")
    return Rest()


def _loading(view: _View) -> Action:
    if (ending := _ending(view)) is not None:
        return ending
    if view.want is Target.CREATED:
        return view.ordered(Phase.UNLOADING, "not to be loaded any more")
    if view.slot.digest != view.spec.digest:
        return view.ordered(Phase.LOADING, "another version is wanted", digest=view.spec.digest)
    predictor = view.seen.predictor
    if predictor is not None and predictor.digest == view.slot.digest and view.has_carried_out():
        return view.enter(Phase.SERVING, "its predictor serves the model", reason="")
    if view.since() > LOAD_LIMIT_S:
        return failed(view.slot, view.spec, "its model was not loaded in time", view.now)
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Load(view.slot.address, view.slot.digest, view.slot.order)


def _serving(view: _View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    if view.want is Target.CREATED:
        return view.enter(Phase.DRAINING, "to be unloaded")
    slot, predictor, new = view.slot, view.seen.predictor, view.spec.digest
    if predictor is not None and predictor.busy:
        predictor = None
    if predictor is not None and predictor.digest != slot.digest:
        if predictor.digest == new:
            # A replacement that was given up has been carried out late.
            return view.enter(Phase.SERVING, "its predictor serves the new version", digest=new)
        return view.ordered(Phase.LOADING, "its predictor lost the model", digest=new)
    if slot.digest != new and not has_refused(slot, view.spec) and _may_replace(view):
        return view.ordered(Phase.REPLACING, "another version is wanted", incoming=new)
    if slot.digest == new and predictor is not None and predictor.fence < slot.order:
        # A replacement that was given up may still be under way: this overtakes it.
        return view.ordered(Phase.REPLACING, "the version that it serves is wanted", incoming=new)
    return Rest()


def _may_replace(view: _View) -> bool:
    """Whether no other slot is away: a rolling replacement takes one after the other."""
    needed = enumerate(view.slots[: view.spec.replicas])
    others = [slot.phase for index, slot in needed if index != view.index]
    return all(phase in (Phase.SERVING, Phase.FAILED) for phase in others)


def _replacing(view: _View) -> Action:
    if (ending := _ending(view) or _hung(view)) is not None:
        return ending
    slot, predictor = view.slot, view.seen.predictor
    if predictor is not None and predictor.digest == slot.incoming and view.has_carried_out():
        cause = "its predictor serves the version that is wanted"
        return view.enter(Phase.SERVING, cause, digest=slot.incoming, incoming="", reason="")
    if view.want is Target.CREATED:
        return view.enter(Phase.DRAINING, "to be unloaded", incoming="")
    if slot.incoming != view.spec.digest:
        # Still replacing: the predictor may yet come to serve the version that was wanted before.
        return view.ordered(Phase.REPLACING, "yet another is wanted", incoming=view.spec.digest)
    if view.since() > LOAD_LIMIT_S:
        return view.enter(Phase.SERVING, "the replacement is given up", incoming="")
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Load(slot.address, slot.incoming, slot.order)


def _draining(view: _View) -> Action:
    if (ending := _ended(view)) is not None:
        return ending
    predictor = view.seen.predictor
    same = predictor is not None and predictor.digest == view.slot.digest == view.spec.digest
    if view.want is Target.LOADED and same and view.has_carried_out():
        return view.enter(Phase.SERVING, "wanted again")
    if not view.seen.withdrawal_confirmed and view.since() < DRAIN_LIMIT_S:
        return view.in_s(0.1)
    if view.want is Target.ABSENT:
        return view.enter(Phase.REMOVING, "nobody uses it any more")
    return view.ordered(Phase.UNLOADING, "nobody uses it any more")


def _unloading(view: _View) -> Action:
    if (ending := _ending(view)) is not None:
        return ending
    predictor = view.seen.predictor
    if predictor is not None and not predictor.digest and view.has_carried_out():
        return view.enter(Phase.IDLE, "its model is freed", digest="")
    if view.since() > UNLOAD_LIMIT_S:
        return failed(view.slot, view.spec, "its model was not freed in time", view.now)
    if predictor is None or predictor.busy:
        return view.in_s(0.1)
    if view.is_overtaken():
        return view.renumbered()
    return Unload(view.slot.address, view.slot.order)


def _removing(view: _View) -> Action:
    # A container that is still there was stale and has been dealt with.
    if view.seen.containers is None:
        return view.in_s(1.0)
    if view.want is not Target.ABSENT:
        return _next_attempt(view, "wanted again")
    return view.enter(
        Phase.ABSENT,
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


def _backoff(view: _View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(Phase.REMOVING, "not wanted any more")
    if view.seen.containers is None:
        return view.in_s(1.0)
    renewed = view.slot.generation != view.spec.generation
    if renewed or view.slot.retry_time is None or view.now >= view.slot.retry_time:
        return _next_attempt(view, "another attempt")
    return Rest(view.slot.retry_time)


def _failed(view: _View) -> Action:
    if view.want is Target.ABSENT:
        return view.enter(Phase.REMOVING, "not wanted any more")
    if view.slot.generation != view.spec.generation:
        fresh = replace(view.slot, failures=0, reason="", refused="", log_tail="")
        return _next_attempt(replace(view, slot=fresh), "asked for again")
    return Rest()


def _ending(view: _View) -> Change | None:
    """What all phases with a running container have in common: it died, or is not wanted."""
    if (ended := _ended(view)) is not None:
        return ended
    if view.want is Target.ABSENT:
        if view.slot.phase in (Phase.SERVING, Phase.REPLACING):
            return view.enter(Phase.DRAINING, "not wanted any more", incoming="")
        return view.enter(Phase.REMOVING, "not wanted any more")
    return None


def _ended(view: _View) -> Change | None:
    container = view.container
    if view.seen.containers is None:
        return None
    if container is None or container.state is ContainerState.EXITED:
        return _died(view)
    return None


def _hung(view: _View) -> Change | None:
    """The change after the predictor of a container that runs has stopped answering."""
    container, since = view.container, view.seen.silent_since
    if container is None or since is None or view.seen.predictor is not None:
        return None
    why = "its predictor does not answer"
    change = failed(view.slot, view.spec, why, view.now, worked_until=since)
    return replace(change, logs_of=container.id)


def _died(view: _View) -> Change:
    container = view.container
    if container is None:
        return _vanished(view)
    why = "its container ended"
    if container.exit_reason:
        why = f"{why}: {container.exit_reason}"
    return replace(failed(view.slot, view.spec, why, view.now), logs_of=container.id)


def _vanished(view: _View) -> Change:
    """The change after somebody took the container away, or its runtime began anew.

    That says nothing against the model or the container, so it does not count as a failure.
    """
    same = view.slot.generation == view.spec.generation
    return view.enter(
        Phase.BACKOFF,
        "its container is gone",
        reason="its container is gone",
        failures=view.slot.failures if same else 0,
        generation=view.spec.generation,
        retry_time=view.now + timedelta(seconds=FIRST_PAUSE_S),
        digest="",
        incoming="",
    )


_RULES = {
    Phase.ABSENT: _absent,
    Phase.CREATING: _creating,
    Phase.IDLE: _idle,
    Phase.LOADING: _loading,
    Phase.SERVING: _serving,
    Phase.REPLACING: _replacing,
    Phase.DRAINING: _draining,
    Phase.UNLOADING: _unloading,
    Phase.REMOVING: _removing,
    Phase.BACKOFF: _backoff,
    Phase.FAILED: _failed,
}
