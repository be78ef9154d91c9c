"""What follows what in the life of one slot, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from controller.actions import Action, Change, Create, Load, Remove, Rest, Unload
from controller.deployment import PUBLISHED, Deployment, Phase, Slot, Spec, State, Target
from controller.failing import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MAX_FAILURES,
    STABLE_S,
    failed,
    refused,
)
from controller.lifecycle import DRAIN_LIMIT_S, LOAD_LIMIT_S, START_LIMIT_S, UNLOAD_LIMIT_S, step
from controller.seen import ContainerState, Seen, SeenContainer, SeenPredictor

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
ATTEMPT = 3
HERE = SeenContainer("c3", ATTEMPT, ContainerState.RUNNING, "10.0.0.3:1")
MADE = replace(HERE, state=ContainerState.STARTING)
ENDED = replace(HERE, state=ContainerState.EXITED, exit_reason="exit code 1")
ORDER = 7
BACKOFF = Phase.BACKOFF
EMPTY = SeenPredictor("", fence=ORDER)
OLD, NEW = replace(EMPTY, digest="old"), replace(EMPTY, digest="new")
BUSY = replace(EMPTY, busy=True)

HAS_CONTAINER = (
    Phase.IDLE,
    Phase.LOADING,
    Phase.SERVING,
    Phase.REPLACING,
    Phase.DRAINING,
    Phase.UNLOADING,
)
HAS_NONE = (Phase.ABSENT, Phase.REMOVING, Phase.BACKOFF, Phase.FAILED)

SPEC = Spec("iris-setosa", 1, "new", "setosa", target=Target.LOADED)


def slot(phase: Phase, **others: object) -> Slot:
    """A slot that has just entered a phase, and holds what belongs to it."""
    held = Slot(phase, NOW, ATTEMPT, order=ORDER, generation=SPEC.generation)
    if phase in HAS_CONTAINER:
        held = replace(held, container_id=HERE.id, address=HERE.address)
    if phase in (Phase.LOADING, Phase.SERVING, Phase.DRAINING, Phase.UNLOADING):
        held = replace(held, digest="new")
    if phase is Phase.REPLACING:
        held = replace(held, digest="old", incoming="new")
    return replace(held, **others)  # type: ignore[arg-type]


def after(
    held: Slot,
    want: Target = Target.LOADED,
    containers: tuple[SeenContainer, ...] | None = (HERE,),
    predictor: SeenPredictor | None = None,
    *,
    confirmed: bool = False,
    passed_s: float = 0.0,
    spec: Spec = SPEC,
) -> Action:
    """What `step` answers."""
    deployment = Deployment("a1", replace(spec, target=want), (held,))
    seen = Seen(containers, predictor, confirmed)
    return step(deployment, 0, seen, NOW + timedelta(seconds=passed_s))


def phase_of(action: Action) -> Phase:
    assert isinstance(action, Change), action
    return action.slot.phase


def is_waiting(action: Action) -> bool:
    return isinstance(action, Rest) and action.until is not None


@pytest.mark.parametrize("want", [Target.CREATED, Target.LOADED])
def test_what_is_wanted_begins_a_new_attempt_in_writing(want: Target) -> None:
    action = after(slot(Phase.ABSENT), want, ())
    assert phase_of(action) is Phase.CREATING
    assert isinstance(action, Change)
    assert action.slot.attempt == ATTEMPT + 1


@pytest.mark.parametrize("containers", [(), None])
def test_absent_and_not_wanted_rests(containers: tuple[SeenContainer, ...] | None) -> None:
    assert after(slot(Phase.ABSENT), Target.ABSENT, containers) == Rest()


@pytest.mark.parametrize("containers", [(), (MADE,)])
def test_creating_has_the_container_made_and_started(
    containers: tuple[SeenContainer, ...],
) -> None:
    assert after(slot(Phase.CREATING), containers=containers) == Create(ATTEMPT)


def test_creating_writes_which_container_it_is_before_it_believes_a_predictor() -> None:
    action = after(slot(Phase.CREATING), predictor=EMPTY, passed_s=START_LIMIT_S + 1)
    assert phase_of(action) is Phase.CREATING
    assert isinstance(action, Change)
    assert (action.slot.container_id, action.slot.address) == (HERE.id, HERE.address)
    assert action.slot.since == NOW + timedelta(seconds=START_LIMIT_S + 1), "its time begins now"


def test_creating_is_done_when_the_predictor_answers() -> None:
    held = slot(Phase.CREATING, container_id=HERE.id, address=HERE.address, reason="was ill")
    assert is_waiting(after(held))
    action = after(held, predictor=EMPTY)
    assert phase_of(action) is Phase.IDLE
    assert isinstance(action, Change)
    assert action.slot.reason == ""


def test_creating_ends_when_the_predictor_never_answers() -> None:
    held = slot(Phase.CREATING, container_id=HERE.id, address=HERE.address)
    assert is_waiting(after(held, passed_s=START_LIMIT_S))
    assert phase_of(after(held, passed_s=START_LIMIT_S + 1)) is Phase.BACKOFF


def test_creating_makes_no_second_container_when_the_first_is_gone() -> None:
    held = slot(Phase.CREATING, container_id=HERE.id, address=HERE.address)
    assert phase_of(after(held, containers=())) is Phase.BACKOFF


def test_idle_rests_or_begins_to_load() -> None:
    assert after(slot(Phase.IDLE), Target.CREATED, predictor=EMPTY) == Rest()
    action = after(slot(Phase.IDLE), predictor=EMPTY)
    assert phase_of(action) is Phase.LOADING
    assert isinstance(action, Change)
    assert action.slot.digest == "new"


def test_idle_frees_a_model_that_was_loaded_late() -> None:
    assert phase_of(after(slot(Phase.IDLE), Target.CREATED, predictor=OLD)) is Phase.UNLOADING


@pytest.mark.parametrize("predictor", [EMPTY, OLD])
def test_loading_gives_the_model(predictor: SeenPredictor) -> None:
    assert after(slot(Phase.LOADING), predictor=predictor) == Load(HERE.address, "new", ORDER)


@pytest.mark.parametrize("predictor", [None, BUSY])
def test_loading_waits_up_to_its_limit(predictor: SeenPredictor | None) -> None:
    assert is_waiting(after(slot(Phase.LOADING), predictor=predictor))
    late = after(slot(Phase.LOADING), predictor=predictor, passed_s=LOAD_LIMIT_S + 1)
    assert phase_of(late) is Phase.BACKOFF


@pytest.mark.parametrize("containers", [(HERE,), None])
def test_loading_is_done_when_the_predictor_says_so(
    containers: tuple[SeenContainer, ...] | None,
) -> None:
    action = after(slot(Phase.LOADING), containers=containers, predictor=NEW)
    assert phase_of(action) is Phase.SERVING


def test_loading_follows_a_change_of_mind() -> None:
    assert phase_of(after(slot(Phase.LOADING), Target.CREATED)) is Phase.UNLOADING
    action = after(slot(Phase.LOADING, digest="old"), predictor=OLD)
    assert phase_of(action) is Phase.LOADING
    assert isinstance(action, Change)
    assert action.slot.digest == "new"


@pytest.mark.parametrize("predictor", [None, NEW, BUSY])
def test_serving_rests(predictor: SeenPredictor | None) -> None:
    assert after(slot(Phase.SERVING), predictor=predictor) == Rest()


@pytest.mark.parametrize("predictor", [EMPTY, OLD])
def test_serving_loads_again_what_the_predictor_lost(predictor: SeenPredictor) -> None:
    assert phase_of(after(slot(Phase.SERVING), predictor=predictor)) is Phase.LOADING


GIVES_ORDERS = [
    (slot(Phase.IDLE), Target.LOADED, EMPTY),
    (slot(Phase.IDLE), Target.CREATED, NEW),
    (slot(Phase.LOADING), Target.CREATED, EMPTY),
    (slot(Phase.LOADING, digest="old"), Target.LOADED, EMPTY),
    (slot(Phase.SERVING), Target.LOADED, EMPTY),
    (slot(Phase.SERVING, digest="old"), Target.LOADED, OLD),
    (slot(Phase.REPLACING, incoming="newer"), Target.LOADED, OLD),
    (slot(Phase.DRAINING), Target.CREATED, NEW),
]


@pytest.mark.parametrize(("held", "want", "predictor"), GIVES_ORDERS)
def test_every_order_is_later_than_all_before_it(
    held: Slot, want: Target, predictor: SeenPredictor
) -> None:
    """Also than those of the deployment's other predictors, and than what the predictor says."""
    deployment = Deployment("a1", replace(SPEC, replicas=2, target=want), (held, slot(Phase.IDLE)))
    for other, fence in ((ORDER, ORDER), (ORDER + 3, ORDER), (ORDER, ORDER + 5)):
        slots = (held, replace(deployment.slots[1], phase=Phase.SERVING, order=other))
        seen = Seen((HERE,), replace(predictor, fence=fence), withdrawal_confirmed=True)
        action = step(replace(deployment, slots=slots), 0, seen, NOW)
        assert isinstance(action, Change), action
        assert action.slot.phase in (Phase.LOADING, Phase.REPLACING, Phase.UNLOADING)
        assert action.slot.order == max(ORDER, other, fence) + 1


@pytest.mark.parametrize(
    ("phase", "predictor", "order"),
    [
        (Phase.LOADING, NEW, Load(HERE.address, "new", ORDER)),
        (Phase.REPLACING, NEW, Load(HERE.address, "new", ORDER)),
        (Phase.UNLOADING, EMPTY, Unload(HERE.address, ORDER)),
    ],
)
def test_an_order_is_given_until_it_was_carried_out_even_if_it_changes_nothing(
    phase: Phase, predictor: SeenPredictor, order: Action
) -> None:
    """An earlier one, which may still be under way, is overtaken by that."""
    want = Target.CREATED if phase is Phase.UNLOADING else Target.LOADED
    assert after(slot(phase), want, predictor=replace(predictor, fence=ORDER - 1)) == order
    done = after(slot(phase), want, predictor=predictor)
    assert phase_of(done) in (Phase.SERVING, Phase.IDLE)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.REPLACING, Phase.UNLOADING])
def test_an_order_that_the_predictor_would_refuse_is_given_as_a_later_one(phase: Phase) -> None:
    """Somebody else's, or those of a store that has lost writes."""
    held = SeenPredictor("other", fence=ORDER + 9)
    want = Target.CREATED if phase is Phase.UNLOADING else Target.LOADED
    action = after(slot(phase), want, predictor=held, passed_s=5)
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.order) == (phase, ORDER + 10)
    assert action.slot.since == NOW, "it has no more time than before"


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.SERVING, Phase.REPLACING])
def test_a_predictor_that_hangs_is_given_up_and_counted(phase: Phase) -> None:
    silent = NOW + timedelta(seconds=30)
    action = hung(slot(phase, failures=2), silent)
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.reason) == (BACKOFF, "its predictor does not answer")
    assert (action.slot.failures, action.logs_of) == (3, HERE.id)
    last = hung(slot(phase, failures=MAX_FAILURES), silent)
    assert phase_of(last) is Phase.FAILED
    assert isinstance(last, Change)
    assert "does not answer" in last.slot.reason


def test_time_in_which_it_hung_does_not_prove_a_predictor() -> None:
    long = NOW + timedelta(seconds=10 * STABLE_S)
    for silent, failures in ((NOW + timedelta(seconds=STABLE_S), 3), (long, 1)):
        action = hung(slot(Phase.SERVING, failures=2), silent, now=long)
        assert isinstance(action, Change)
        assert action.slot.failures == failures


@pytest.mark.parametrize(
    "seen",
    [
        Seen(None, None, silent_since=NOW),
        Seen((HERE,), NEW, silent_since=NOW),
        Seen((HERE,), None),
    ],
    ids=["the engine is away", "it answers after all", "it was not probed often enough"],
)
def test_a_predictor_is_not_given_up_unless_it_surely_hangs(seen: Seen) -> None:
    deployment = Deployment("a1", SPEC, (slot(Phase.SERVING),))
    assert step(deployment, 0, seen, NOW + timedelta(seconds=60)) == Rest()


def hung(held: Slot, silent: datetime, now: datetime = NOW) -> Action:
    """What follows when the slot's predictor has not answered since `silent`."""
    deployment = Deployment("a1", SPEC, (held,))
    return step(deployment, 0, Seen((HERE,), None, silent_since=silent), now)


def test_draining_is_not_undone_while_a_replacement_may_be_under_way() -> None:
    behind = replace(NEW, fence=ORDER - 1)
    assert is_waiting(after(slot(Phase.DRAINING), predictor=behind))


def test_serving_overtakes_a_replacement_that_was_given_up_and_is_not_wanted_any_more() -> None:
    behind = replace(NEW, fence=ORDER - 1)
    action = after(slot(Phase.SERVING), predictor=behind)
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.incoming) == (Phase.REPLACING, "new")
    assert action.slot.order == ORDER + 1


def test_serving_accepts_what_is_wanted_even_if_it_came_late() -> None:
    action = after(slot(Phase.SERVING, digest="old"), predictor=NEW)
    assert phase_of(action) is Phase.SERVING
    assert isinstance(action, Change)
    assert action.slot.digest == "new"


def test_serving_gives_way_to_another_version() -> None:
    action = after(slot(Phase.SERVING, digest="old"), predictor=OLD)
    assert phase_of(action) is Phase.REPLACING
    assert isinstance(action, Change)
    assert (action.slot.digest, action.slot.incoming) == ("old", "new")


def test_replacing_loads_and_is_done_when_the_predictor_says_so() -> None:
    assert after(slot(Phase.REPLACING), predictor=OLD) == Load(HERE.address, "new", ORDER)
    assert is_waiting(after(slot(Phase.REPLACING), predictor=BUSY))
    action = after(slot(Phase.REPLACING), predictor=NEW)
    assert phase_of(action) is Phase.SERVING
    assert isinstance(action, Change)
    assert (action.slot.digest, action.slot.incoming) == ("new", "")


def test_replacing_is_given_up_when_it_takes_too_long() -> None:
    action = after(slot(Phase.REPLACING), predictor=OLD, passed_s=LOAD_LIMIT_S + 1)
    assert phase_of(action) is Phase.SERVING
    assert isinstance(action, Change)
    assert (action.slot.digest, action.slot.incoming) == ("old", "")


@pytest.mark.parametrize("digest", ["old", "newer"])
def test_replacing_stays_published_when_yet_another_version_is_wanted(digest: str) -> None:
    action = after(slot(Phase.REPLACING), predictor=OLD, spec=replace(SPEC, digest=digest))
    assert phase_of(action) is Phase.REPLACING
    assert isinstance(action, Change)
    assert (action.slot.digest, action.slot.incoming) == ("old", digest)


@pytest.mark.parametrize("phase", [Phase.SERVING, Phase.REPLACING])
@pytest.mark.parametrize("want", [Target.CREATED, Target.ABSENT])
def test_what_is_published_is_withdrawn_first(phase: Phase, want: Target) -> None:
    assert phase_of(after(slot(phase), want)) is Phase.DRAINING


@pytest.mark.parametrize(
    ("want", "phase"), [(Target.CREATED, Phase.UNLOADING), (Target.ABSENT, Phase.REMOVING)]
)
def test_draining_waits_for_confirmation_or_its_limit(want: Target, phase: Phase) -> None:
    assert is_waiting(after(slot(Phase.DRAINING), want))
    assert phase_of(after(slot(Phase.DRAINING), want, confirmed=True)) is phase
    assert phase_of(after(slot(Phase.DRAINING), want, passed_s=DRAIN_LIMIT_S)) is phase


def test_draining_is_undone_only_if_the_predictor_still_has_what_is_wanted() -> None:
    assert phase_of(after(slot(Phase.DRAINING), predictor=NEW)) is Phase.SERVING
    assert is_waiting(after(slot(Phase.DRAINING), predictor=None))
    gone = after(slot(Phase.DRAINING, digest="old"), predictor=OLD, confirmed=True)
    assert phase_of(gone) is Phase.UNLOADING


@pytest.mark.parametrize("want", [Target.CREATED, Target.LOADED])
def test_unloading_frees_the_model_whatever_is_wanted_next(want: Target) -> None:
    assert after(slot(Phase.UNLOADING), want, predictor=NEW) == Unload(HERE.address, ORDER)
    assert is_waiting(after(slot(Phase.UNLOADING), want, predictor=BUSY))
    assert phase_of(after(slot(Phase.UNLOADING), want, predictor=EMPTY)) is Phase.IDLE


def test_unloading_ends_when_the_predictor_never_answers() -> None:
    assert is_waiting(after(slot(Phase.UNLOADING)))
    late = after(slot(Phase.UNLOADING), passed_s=UNLOAD_LIMIT_S + 1)
    assert phase_of(late) is Phase.BACKOFF


@pytest.mark.parametrize(
    "phase", [Phase.IDLE, Phase.LOADING, Phase.UNLOADING, Phase.CREATING, Phase.FAILED]
)
def test_what_nobody_uses_is_removed_at_once(phase: Phase) -> None:
    containers = (HERE,) if phase in HAS_CONTAINER else ()
    assert phase_of(after(slot(phase), Target.ABSENT, containers)) is Phase.REMOVING


def test_removing_ends_when_the_container_is_gone() -> None:
    held = slot(Phase.REMOVING, failures=4, reason="was ill", container_id="c3", refused="old")
    assert is_waiting(after(held, Target.ABSENT, None))
    action = after(held, Target.ABSENT, ())
    assert isinstance(action, Change)
    assert action.slot == Slot(Phase.ABSENT, NOW, ATTEMPT, order=ORDER, generation=1)


def test_reversing_a_removal_raises_the_attempt() -> None:
    assert after(slot(Phase.REMOVING)) == Remove(HERE.id)
    action = after(slot(Phase.REMOVING), containers=())
    assert phase_of(action) is Phase.CREATING
    assert isinstance(action, Change)
    assert action.slot.attempt == ATTEMPT + 1


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("want", Target)
def test_an_earlier_attempt_is_removed_before_anything_else(phase: Phase, want: Target) -> None:
    earlier = SeenContainer("c2", ATTEMPT - 1, ContainerState.RUNNING)
    assert after(slot(phase), want, (HERE, earlier)) in (Remove("c2"), Remove(HERE.id))
    assert after(slot(phase), want, (earlier,)) == Remove("c2")


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("want", Target)
@pytest.mark.parametrize("seen", [HERE, MADE, ENDED])
def test_the_current_container_is_removed_only_once_it_is_given_up(
    phase: Phase, want: Target, seen: SeenContainer
) -> None:
    action = after(slot(phase), want, (seen,))
    assert (action == Remove(HERE.id)) == (phase in HAS_NONE)


@pytest.mark.parametrize("phase", HAS_CONTAINER)
def test_a_container_that_ended_is_written_down_with_its_log(phase: Phase) -> None:
    action = after(slot(phase), containers=(ENDED,))
    assert isinstance(action, Change)
    assert action.slot.phase is Phase.BACKOFF
    assert action.slot.reason == "its container ended: exit code 1"
    assert action.logs_of == HERE.id


@pytest.mark.parametrize("phase", HAS_CONTAINER)
@pytest.mark.parametrize("containers", [(), (replace(HERE, id="another", address="10.0.0.4:1"),)])
def test_a_container_that_is_gone_is_not_confused_with_one_made_late(
    phase: Phase, containers: tuple[SeenContainer, ...]
) -> None:
    action = after(slot(phase), containers=containers, predictor=NEW)
    assert isinstance(action, Change)
    assert action.slot.phase is Phase.BACKOFF
    assert action.slot.reason == "its container is gone"


def test_a_container_that_is_gone_does_not_count_as_a_failure() -> None:
    tried = replace(slot(Phase.SERVING), failures=3, generation=1)
    action = after(tried, containers=())
    assert isinstance(action, Change)
    assert action.slot.failures == 3
    assert action.slot.retry_time == NOW + timedelta(seconds=FIRST_PAUSE_S)


@pytest.mark.parametrize("phase", Phase)
def test_an_engine_that_does_not_answer_ends_no_attempt(phase: Phase) -> None:
    action = after(slot(phase), containers=None)
    if phase not in (Phase.ABSENT, Phase.FAILED):
        assert not isinstance(action, Change) or action.slot.phase in HAS_CONTAINER
        assert not isinstance(action, Remove | Create)


def test_a_later_attempt_than_is_written_is_given_up() -> None:
    later = SeenContainer("c9", 9, ContainerState.RUNNING)
    action = after(slot(Phase.ABSENT), Target.ABSENT, (later,))
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.attempt) == (Phase.REMOVING, 9)


def test_pauses_double_up_to_the_longest_and_then_the_slot_is_failed() -> None:
    held, pauses = slot(Phase.CREATING), []
    for _ in range(MAX_FAILURES):
        held = failed(held, SPEC, "ill", NOW).slot
        assert held.phase is Phase.BACKOFF
        assert held.retry_time is not None
        pauses.append((held.retry_time - NOW).total_seconds())
    assert pauses == [1, 2, 4, 8, 16]
    over = failed(held, SPEC, "ill", NOW).slot
    assert (over.phase, over.retry_time, over.reason) == (Phase.FAILED, None, "ill")


def test_backoff_waits_for_its_time_and_then_begins_a_new_attempt() -> None:
    held = failed(slot(Phase.CREATING), SPEC, "ill", NOW).slot
    assert after(held, containers=()) == Rest(held.retry_time)
    assert is_waiting(after(held, containers=None, passed_s=2))
    action = after(held, containers=(), passed_s=2)
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.attempt) == (Phase.CREATING, ATTEMPT + 1)
    assert action.slot.failures == 1


def test_backoff_and_failed_begin_again_when_asked_for_again() -> None:
    again = replace(SPEC, generation=2)
    pausing = failed(slot(Phase.CREATING), SPEC, "ill", NOW).slot
    assert phase_of(after(pausing, containers=(), spec=again)) is Phase.CREATING
    over = failed(slot(Phase.CREATING), SPEC, "ill", NOW, for_good=True).slot
    assert after(over, containers=()) == Rest()
    action = after(over, containers=(), spec=again)
    assert isinstance(action, Change)
    assert (action.slot.phase, action.slot.failures) == (Phase.CREATING, 0)


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.SERVING])
def test_failures_are_counted_anew_after_a_stable_time(phase: Phase) -> None:
    held = slot(phase, failures=MAX_FAILURES)
    soon, late = NOW + timedelta(seconds=1), NOW + timedelta(seconds=STABLE_S + 1)
    assert failed(held, SPEC, "ill", soon).slot.phase is Phase.FAILED
    assert failed(held, SPEC, "ill", late).slot.failures == 1


def test_failures_are_counted_anew_for_another_generation() -> None:
    held = slot(Phase.CREATING, failures=MAX_FAILURES)
    assert failed(held, replace(SPEC, generation=2), "ill", NOW).slot.failures == 1


@given(some.integers(0, 10**9))
def test_no_number_of_failures_is_too_many(count: int) -> None:
    change = failed(slot(Phase.CREATING, failures=count), SPEC, "ill", NOW)
    if change.slot.retry_time is not None:
        assert change.slot.retry_time <= NOW + timedelta(seconds=LONGEST_PAUSE_S)


def test_a_slot_that_served_nothing_fails_for_good_when_its_model_is_refused() -> None:
    change = refused(slot(Phase.LOADING), SPEC, "no model", NOW)
    assert (change.slot.phase, change.slot.reason) == (Phase.FAILED, "no model")


def test_a_slot_that_serves_keeps_what_it_has_until_it_is_asked_again() -> None:
    kept = refused(slot(Phase.REPLACING), SPEC, "no model", NOW).slot
    assert (kept.phase, kept.digest, kept.incoming) == (Phase.SERVING, "old", "")
    assert after(kept, predictor=OLD) == Rest()
    assert Deployment("a1", SPEC, (kept,)).state is State.FAILED
    again = replace(SPEC, generation=2)
    assert phase_of(after(kept, predictor=OLD, spec=again)) is Phase.REPLACING
    assert Deployment("a1", again, (kept,)).state is State.LOADING


@pytest.mark.parametrize("other", Phase)
def test_replicas_are_replaced_one_after_the_other(other: Phase) -> None:
    slots = (slot(other), slot(Phase.SERVING, digest="old"))
    deployment = Deployment("a1", replace(SPEC, replicas=2), slots)
    action = step(deployment, 1, Seen((HERE,), OLD), NOW)
    assert isinstance(action, Change) == (other in (Phase.SERVING, Phase.FAILED))


def test_a_slot_that_is_to_go_delays_no_replacement() -> None:
    deployment = Deployment("a1", SPEC, (slot(Phase.SERVING, digest="old"), slot(Phase.REMOVING)))
    assert phase_of(step(deployment, 0, Seen((HERE,), OLD), NOW)) is Phase.REPLACING


@pytest.mark.parametrize("target", [Target.CREATED, Target.LOADED])
def test_slots_beyond_the_replicas_go(target: Target) -> None:
    spec = replace(SPEC, target=target)
    deployment = Deployment("a1", spec, (slot(Phase.SERVING), slot(Phase.SERVING)))
    assert phase_of(step(deployment, 1, Seen((HERE,), NEW), NOW)) is Phase.DRAINING


@pytest.mark.parametrize(
    ("target", "phases", "state"),
    [
        (Target.ABSENT, (), State.TERMINATED),
        (Target.ABSENT, (Phase.ABSENT, Phase.ABSENT), State.TERMINATED),
        (Target.ABSENT, (Phase.ABSENT, Phase.REMOVING), State.TERMINATING),
        (Target.CREATED, (), State.CREATING),
        (Target.CREATED, (Phase.IDLE, Phase.CREATING), State.CREATING),
        (Target.CREATED, (Phase.IDLE, Phase.IDLE), State.CREATED),
        (Target.CREATED, (Phase.IDLE, Phase.DRAINING), State.UNLOADING),
        (Target.CREATED, (Phase.IDLE, Phase.FAILED), State.FAILED),
        (Target.LOADED, (Phase.SERVING,), State.LOADING),
        (Target.LOADED, (Phase.SERVING, Phase.LOADING), State.LOADING),
        (Target.LOADED, (Phase.SERVING, Phase.REPLACING), State.LOADING),
        (Target.LOADED, (Phase.SERVING, Phase.SERVING), State.LOADED),
        (Target.LOADED, (Phase.SERVING, Phase.FAILED), State.FAILED),
        (Target.LOADED, (Phase.SERVING, Phase.SERVING, Phase.FAILED), State.LOADED),
    ],
)
def test_state_follows_from_the_slots(
    target: Target, phases: tuple[Phase, ...], state: State
) -> None:
    spec = replace(SPEC, replicas=2, target=target)
    assert Deployment("a1", spec, tuple(map(slot, phases))).state is state


def test_state_is_not_failed_any_more_once_it_is_asked_for_again() -> None:
    over = failed(slot(Phase.CREATING), SPEC, "ill", NOW, for_good=True).slot
    again = replace(SPEC, generation=2)
    assert Deployment("a1", SPEC, (over,)).state is State.FAILED
    assert Deployment("a1", again, (over,)).state is State.LOADING


texts = some.sampled_from(["", "old", "new", "c1", "c3"])
seconds = some.integers(-1000, 1000)
times = some.none() | seconds.map(lambda each: NOW + timedelta(seconds=each))
slots = some.builds(
    Slot,
    phase=some.sampled_from(Phase),
    since=times,
    attempt=some.integers(0, 4),
    container_id=texts,
    address=texts,
    digest=texts,
    incoming=texts,
    order=some.integers(0, 3),
    refused=texts,
    failures=some.integers(0, 10**6),
    generation=some.integers(0, 3),
    retry_time=times,
)
deployments = some.builds(
    Deployment,
    id=some.just("a1"),
    spec=some.builds(
        Spec,
        model=some.just("iris-setosa"),
        version=some.just(1),
        digest=some.sampled_from(["old", "new"]),
        class_label=some.just("setosa"),
        replicas=some.integers(1, 3),
        target=some.sampled_from(Target),
        generation=some.integers(1, 3),
    ),
    slots=some.lists(slots, min_size=1, max_size=3).map(tuple),
)
containers = some.builds(
    SeenContainer,
    id=some.sampled_from(["c1", "c2", "c3"]),
    attempt=some.integers(0, 5),
    state=some.sampled_from(ContainerState),
    address=texts,
    exit_reason=texts,
)
looks = some.builds(
    Seen,
    containers=some.none() | some.lists(containers, max_size=3),
    predictor=some.none()
    | some.builds(SeenPredictor, digest=texts, busy=some.booleans(), fence=some.integers(0, 3)),
    withdrawal_confirmed=some.booleans(),
    silent_since=some.none() | some.just(NOW),
)


@given(deployments, looks, some.integers(0, 2))
def test_every_document_and_look_has_a_next_action(
    deployment: Deployment, seen: Seen, place: int
) -> None:
    index = place % len(deployment.slots)
    held = deployment.slots[index]
    assert deployment.state in State
    action = step(deployment, index, seen, NOW)
    match action:
        case Change(new):
            assert new.attempt >= held.attempt
            assert new != held
            if new.phase in PUBLISHED and held.phase not in (*PUBLISHED, Phase.DRAINING):
                assert seen.predictor is not None
                assert new.digest == seen.predictor.digest
        case Remove(container_id):
            seen_attempts = [c.attempt for c in seen.containers or () if c.id == container_id]
            assert min(seen_attempts) <= held.attempt
        case Create(attempt):
            assert (attempt, held.phase) == (held.attempt, Phase.CREATING)
        case Load() | Unload():
            assert held.phase in (Phase.LOADING, Phase.REPLACING, Phase.UNLOADING)
        case Rest(until):
            assert until is None or until.tzinfo is not None
