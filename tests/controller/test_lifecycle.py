"""What follows what in the life of one instance, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from controller.deployments.actions import Action, Change, Create, Load, Remove, Rest, Unload
from controller.deployments.document import (
    PUBLISHED,
    Deployment,
    Instance,
    InstancePhase,
    Spec,
    State,
    Target,
)
from controller.deployments.failing import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STABLE_S,
    failed,
    refused,
)
from controller.deployments.lifecycle import (
    DRAIN_LIMIT_S,
    LOAD_LIMIT_S,
    START_LIMIT_S,
    UNLOAD_LIMIT_S,
    step,
)
from controller.seen import Seen, SeenContainer, SeenPredictor, SeenState

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
ATTEMPT = 3
HERE = SeenContainer("c3", ATTEMPT, SeenState.RUNNING, "10.0.0.3:1")
MADE = replace(HERE, state=SeenState.STARTING)
ENDED = replace(HERE, state=SeenState.EXITED, exit_reason="exit code 1")
ORDER = 7
BACKOFF = InstancePhase.BACKOFF
EMPTY = SeenPredictor("", fence=ORDER)
OLD, NEW = replace(EMPTY, digest="old"), replace(EMPTY, digest="new")
BUSY = replace(EMPTY, busy=True)

HAS_CONTAINER = (
    InstancePhase.IDLE,
    InstancePhase.LOADING,
    InstancePhase.SERVING,
    InstancePhase.REPLACING,
    InstancePhase.DRAINING,
    InstancePhase.UNLOADING,
)
HAS_NONE = (
    InstancePhase.ABSENT,
    InstancePhase.REMOVING,
    InstancePhase.BACKOFF,
    InstancePhase.FAILED,
)

SPEC = Spec("iris-setosa", 1, "new", "setosa", target=Target.LOADED)


def instance(phase: InstancePhase, **others: object) -> Instance:
    """An instance that has just entered a phase, and holds what belongs to it."""
    held = Instance(phase, NOW, ATTEMPT, order=ORDER, generation=SPEC.generation)
    if phase in HAS_CONTAINER:
        held = replace(held, container_id=HERE.id, address=HERE.address)
    if phase in (
        InstancePhase.LOADING,
        InstancePhase.SERVING,
        InstancePhase.DRAINING,
        InstancePhase.UNLOADING,
    ):
        held = replace(held, digest="new")
    if phase is InstancePhase.REPLACING:
        held = replace(held, digest="old", incoming="new")
    return replace(held, **others)  # type: ignore[arg-type]


def after(
    held: Instance,
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


def phase_of(action: Action) -> InstancePhase:
    assert isinstance(action, Change), action
    return action.instance.phase


def is_waiting(action: Action) -> bool:
    return isinstance(action, Rest) and action.until is not None


@pytest.mark.parametrize("want", [Target.CREATED, Target.LOADED])
def test_what_is_wanted_begins_a_new_attempt_in_writing(want: Target) -> None:
    action = after(instance(InstancePhase.ABSENT), want, ())
    assert phase_of(action) is InstancePhase.CREATING
    assert isinstance(action, Change)
    assert action.instance.attempt == ATTEMPT + 1


@pytest.mark.parametrize("containers", [(), None])
def test_absent_and_not_wanted_rests(containers: tuple[SeenContainer, ...] | None) -> None:
    assert after(instance(InstancePhase.ABSENT), Target.ABSENT, containers) == Rest()


@pytest.mark.parametrize("containers", [(), (MADE,)])
def test_creating_has_the_container_made_and_started(
    containers: tuple[SeenContainer, ...],
) -> None:
    assert after(instance(InstancePhase.CREATING), containers=containers) == Create(ATTEMPT)


def test_creating_writes_which_container_it_is_before_it_believes_a_predictor() -> None:
    action = after(instance(InstancePhase.CREATING), predictor=EMPTY, passed_s=START_LIMIT_S + 1)
    assert phase_of(action) is InstancePhase.CREATING
    assert isinstance(action, Change)
    assert (action.instance.container_id, action.instance.address) == (HERE.id, HERE.address)
    assert action.instance.since == NOW + timedelta(seconds=START_LIMIT_S + 1), (
        "its time begins now"
    )


def test_creating_is_done_when_the_predictor_answers() -> None:
    held = instance(
        InstancePhase.CREATING, container_id=HERE.id, address=HERE.address, reason="was ill"
    )
    assert is_waiting(after(held))
    action = after(held, predictor=EMPTY)
    assert phase_of(action) is InstancePhase.IDLE
    assert isinstance(action, Change)
    assert action.instance.reason == ""


def test_creating_ends_when_the_predictor_never_answers() -> None:
    held = instance(InstancePhase.CREATING, container_id=HERE.id, address=HERE.address)
    assert is_waiting(after(held, passed_s=START_LIMIT_S))
    assert phase_of(after(held, passed_s=START_LIMIT_S + 1)) is InstancePhase.BACKOFF


def test_creating_makes_no_second_container_when_the_first_is_gone() -> None:
    held = instance(InstancePhase.CREATING, container_id=HERE.id, address=HERE.address)
    assert phase_of(after(held, containers=())) is InstancePhase.BACKOFF


def test_idle_rests_or_begins_to_load() -> None:
    assert after(instance(InstancePhase.IDLE), Target.CREATED, predictor=EMPTY) == Rest()
    action = after(instance(InstancePhase.IDLE), predictor=EMPTY)
    assert phase_of(action) is InstancePhase.LOADING
    assert isinstance(action, Change)
    assert action.instance.digest == "new"


def test_idle_frees_a_model_that_was_loaded_late() -> None:
    assert (
        phase_of(after(instance(InstancePhase.IDLE), Target.CREATED, predictor=OLD))
        is InstancePhase.UNLOADING
    )


@pytest.mark.parametrize("predictor", [EMPTY, OLD])
def test_loading_gives_the_model(predictor: SeenPredictor) -> None:
    assert after(instance(InstancePhase.LOADING), predictor=predictor) == Load(
        HERE.address, "new", ORDER
    )


@pytest.mark.parametrize("predictor", [None, BUSY])
def test_loading_waits_up_to_its_limit(predictor: SeenPredictor | None) -> None:
    assert is_waiting(after(instance(InstancePhase.LOADING), predictor=predictor))
    late = after(instance(InstancePhase.LOADING), predictor=predictor, passed_s=LOAD_LIMIT_S + 1)
    assert phase_of(late) is InstancePhase.BACKOFF


@pytest.mark.parametrize("containers", [(HERE,), None])
def test_loading_is_done_when_the_predictor_says_so(
    containers: tuple[SeenContainer, ...] | None,
) -> None:
    action = after(instance(InstancePhase.LOADING), containers=containers, predictor=NEW)
    assert phase_of(action) is InstancePhase.SERVING


def test_loading_follows_a_change_of_mind() -> None:
    assert (
        phase_of(after(instance(InstancePhase.LOADING), Target.CREATED)) is InstancePhase.UNLOADING
    )
    action = after(instance(InstancePhase.LOADING, digest="old"), predictor=OLD)
    assert phase_of(action) is InstancePhase.LOADING
    assert isinstance(action, Change)
    assert action.instance.digest == "new"


@pytest.mark.parametrize("predictor", [None, NEW, BUSY])
def test_serving_rests(predictor: SeenPredictor | None) -> None:
    assert after(instance(InstancePhase.SERVING), predictor=predictor) == Rest()


@pytest.mark.parametrize("predictor", [EMPTY, OLD])
def test_serving_loads_again_what_the_predictor_lost(predictor: SeenPredictor) -> None:
    assert (
        phase_of(after(instance(InstancePhase.SERVING), predictor=predictor))
        is InstancePhase.LOADING
    )


GIVES_ORDERS = [
    (instance(InstancePhase.IDLE), Target.LOADED, EMPTY),
    (instance(InstancePhase.IDLE), Target.CREATED, NEW),
    (instance(InstancePhase.LOADING), Target.CREATED, EMPTY),
    (instance(InstancePhase.LOADING, digest="old"), Target.LOADED, EMPTY),
    (instance(InstancePhase.SERVING), Target.LOADED, EMPTY),
    (instance(InstancePhase.SERVING, digest="old"), Target.LOADED, OLD),
    (instance(InstancePhase.REPLACING, incoming="newer"), Target.LOADED, OLD),
    (instance(InstancePhase.DRAINING), Target.CREATED, NEW),
]


@pytest.mark.parametrize(("held", "want", "predictor"), GIVES_ORDERS)
def test_every_order_is_later_than_all_before_it(
    held: Instance, want: Target, predictor: SeenPredictor
) -> None:
    """Also than those of the deployment's other predictors, and than what the predictor says."""
    deployment = Deployment(
        "a1", replace(SPEC, replicas=2, target=want), (held, instance(InstancePhase.IDLE))
    )
    for other, fence in ((ORDER, ORDER), (ORDER + 3, ORDER), (ORDER, ORDER + 5)):
        instances = (
            held,
            replace(deployment.instances[1], phase=InstancePhase.SERVING, order=other),
        )
        seen = Seen((HERE,), replace(predictor, fence=fence), withdrawal_confirmed=True)
        action = step(replace(deployment, instances=instances), 0, seen, NOW)
        assert isinstance(action, Change), action
        assert action.instance.phase in (
            InstancePhase.LOADING,
            InstancePhase.REPLACING,
            InstancePhase.UNLOADING,
        )
        assert action.instance.order == max(ORDER, other, fence) + 1


@pytest.mark.parametrize(
    ("phase", "predictor", "order"),
    [
        (InstancePhase.LOADING, NEW, Load(HERE.address, "new", ORDER)),
        (InstancePhase.REPLACING, NEW, Load(HERE.address, "new", ORDER)),
        (InstancePhase.UNLOADING, EMPTY, Unload(HERE.address, ORDER)),
    ],
)
def test_an_order_is_given_until_it_was_carried_out_even_if_it_changes_nothing(
    phase: InstancePhase, predictor: SeenPredictor, order: Action
) -> None:
    """An earlier one, which may still be under way, is overtaken by that."""
    want = Target.CREATED if phase is InstancePhase.UNLOADING else Target.LOADED
    assert after(instance(phase), want, predictor=replace(predictor, fence=ORDER - 1)) == order
    done = after(instance(phase), want, predictor=predictor)
    assert phase_of(done) in (InstancePhase.SERVING, InstancePhase.IDLE)


@pytest.mark.parametrize(
    "phase", [InstancePhase.LOADING, InstancePhase.REPLACING, InstancePhase.UNLOADING]
)
def test_an_order_that_the_predictor_would_refuse_is_given_as_a_later_one(
    phase: InstancePhase,
) -> None:
    """Somebody else's, or those of a store that has lost writes."""
    held = SeenPredictor("other", fence=ORDER + 9)
    want = Target.CREATED if phase is InstancePhase.UNLOADING else Target.LOADED
    action = after(instance(phase), want, predictor=held, passed_s=5)
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.order) == (phase, ORDER + 10)
    assert action.instance.since == NOW, "it has no more time than before"


@pytest.mark.parametrize(
    "phase", [InstancePhase.IDLE, InstancePhase.SERVING, InstancePhase.REPLACING]
)
def test_a_predictor_that_hangs_is_given_up_and_counted(phase: InstancePhase) -> None:
    silent = NOW + timedelta(seconds=30)
    action = hung(instance(phase, failures=2), silent)
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.reason) == (
        BACKOFF,
        "its predictor does not answer",
    )
    assert (action.instance.failures, action.logs_of) == (3, HERE.id)
    last = hung(instance(phase, failures=99), silent)
    assert isinstance(last, Change)
    assert (last.instance.phase, last.instance.failures) == (BACKOFF, 100)


def test_nobody_waits_longer_than_the_longest_pause() -> None:
    """A clock that was ahead wrote the time of the next attempt, or this one has been set back."""
    for wait_s, waits in ((LONGEST_PAUSE_S, True), (LONGEST_PAUSE_S + 1, False), (3600, False)):
        until = NOW + timedelta(seconds=wait_s)
        action = after(instance(BACKOFF, failures=2, retry_time=until), containers=())
        assert action == Rest(until) if waits else phase_of(action) is InstancePhase.CREATING


def test_time_in_which_it_hung_does_not_prove_a_predictor() -> None:
    long = NOW + timedelta(seconds=10 * STABLE_S)
    for silent, failures in ((NOW + timedelta(seconds=STABLE_S), 3), (long, 1)):
        action = hung(instance(InstancePhase.SERVING, failures=2), silent, now=long)
        assert isinstance(action, Change)
        assert action.instance.failures == failures


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
    deployment = Deployment("a1", SPEC, (instance(InstancePhase.SERVING),))
    assert step(deployment, 0, seen, NOW + timedelta(seconds=60)) == Rest()


def hung(held: Instance, silent: datetime, now: datetime = NOW) -> Action:
    """What follows when the instance's predictor has not answered since `silent`."""
    deployment = Deployment("a1", SPEC, (held,))
    return step(deployment, 0, Seen((HERE,), None, silent_since=silent), now)


def test_draining_is_not_undone_while_a_replacement_may_be_under_way() -> None:
    behind = replace(NEW, fence=ORDER - 1)
    assert is_waiting(after(instance(InstancePhase.DRAINING), predictor=behind))


def test_serving_overtakes_a_replacement_that_was_given_up_and_is_not_wanted_any_more() -> None:
    behind = replace(NEW, fence=ORDER - 1)
    action = after(instance(InstancePhase.SERVING), predictor=behind)
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.incoming) == (InstancePhase.REPLACING, "new")
    assert action.instance.order == ORDER + 1


def test_serving_accepts_what_is_wanted_even_if_it_came_late() -> None:
    action = after(instance(InstancePhase.SERVING, digest="old"), predictor=NEW)
    assert phase_of(action) is InstancePhase.SERVING
    assert isinstance(action, Change)
    assert action.instance.digest == "new"


def test_serving_gives_way_to_another_version() -> None:
    action = after(instance(InstancePhase.SERVING, digest="old"), predictor=OLD)
    assert phase_of(action) is InstancePhase.REPLACING
    assert isinstance(action, Change)
    assert (action.instance.digest, action.instance.incoming) == ("old", "new")


def test_replacing_loads_and_is_done_when_the_predictor_says_so() -> None:
    assert after(instance(InstancePhase.REPLACING), predictor=OLD) == Load(
        HERE.address, "new", ORDER
    )
    assert is_waiting(after(instance(InstancePhase.REPLACING), predictor=BUSY))
    action = after(instance(InstancePhase.REPLACING), predictor=NEW)
    assert phase_of(action) is InstancePhase.SERVING
    assert isinstance(action, Change)
    assert (action.instance.digest, action.instance.incoming) == ("new", "")


def test_replacing_is_given_up_when_it_takes_too_long() -> None:
    action = after(instance(InstancePhase.REPLACING), predictor=OLD, passed_s=LOAD_LIMIT_S + 1)
    assert phase_of(action) is InstancePhase.SERVING
    assert isinstance(action, Change)
    assert (action.instance.digest, action.instance.incoming) == ("old", "")


@pytest.mark.parametrize("digest", ["old", "newer"])
def test_replacing_stays_published_when_yet_another_version_is_wanted(digest: str) -> None:
    action = after(
        instance(InstancePhase.REPLACING), predictor=OLD, spec=replace(SPEC, digest=digest)
    )
    assert phase_of(action) is InstancePhase.REPLACING
    assert isinstance(action, Change)
    assert (action.instance.digest, action.instance.incoming) == ("old", digest)


@pytest.mark.parametrize("phase", [InstancePhase.SERVING, InstancePhase.REPLACING])
@pytest.mark.parametrize("want", [Target.CREATED, Target.ABSENT])
def test_what_is_published_is_withdrawn_first(phase: InstancePhase, want: Target) -> None:
    assert phase_of(after(instance(phase), want)) is InstancePhase.DRAINING


@pytest.mark.parametrize(
    ("want", "phase"),
    [(Target.CREATED, InstancePhase.UNLOADING), (Target.ABSENT, InstancePhase.REMOVING)],
)
def test_draining_waits_for_confirmation_or_its_limit(want: Target, phase: InstancePhase) -> None:
    assert is_waiting(after(instance(InstancePhase.DRAINING), want))
    assert phase_of(after(instance(InstancePhase.DRAINING), want, confirmed=True)) is phase
    assert phase_of(after(instance(InstancePhase.DRAINING), want, passed_s=DRAIN_LIMIT_S)) is phase


def test_draining_is_undone_only_if_the_predictor_still_has_what_is_wanted() -> None:
    assert phase_of(after(instance(InstancePhase.DRAINING), predictor=NEW)) is InstancePhase.SERVING
    assert is_waiting(after(instance(InstancePhase.DRAINING), predictor=None))
    gone = after(instance(InstancePhase.DRAINING, digest="old"), predictor=OLD, confirmed=True)
    assert phase_of(gone) is InstancePhase.UNLOADING


@pytest.mark.parametrize("want", [Target.CREATED, Target.LOADED])
def test_unloading_frees_the_model_whatever_is_wanted_next(want: Target) -> None:
    assert after(instance(InstancePhase.UNLOADING), want, predictor=NEW) == Unload(
        HERE.address, ORDER
    )
    assert is_waiting(after(instance(InstancePhase.UNLOADING), want, predictor=BUSY))
    assert (
        phase_of(after(instance(InstancePhase.UNLOADING), want, predictor=EMPTY))
        is InstancePhase.IDLE
    )


def test_unloading_ends_when_the_predictor_never_answers() -> None:
    assert is_waiting(after(instance(InstancePhase.UNLOADING)))
    late = after(instance(InstancePhase.UNLOADING), passed_s=UNLOAD_LIMIT_S + 1)
    assert phase_of(late) is InstancePhase.BACKOFF


@pytest.mark.parametrize(
    "phase",
    [
        InstancePhase.IDLE,
        InstancePhase.LOADING,
        InstancePhase.UNLOADING,
        InstancePhase.CREATING,
        InstancePhase.FAILED,
    ],
)
def test_what_nobody_uses_is_removed_at_once(phase: InstancePhase) -> None:
    containers = (HERE,) if phase in HAS_CONTAINER else ()
    assert phase_of(after(instance(phase), Target.ABSENT, containers)) is InstancePhase.REMOVING


def test_removing_ends_when_the_container_is_gone() -> None:
    held = instance(
        InstancePhase.REMOVING, failures=4, reason="was ill", container_id="c3", refused="old"
    )
    assert is_waiting(after(held, Target.ABSENT, None))
    action = after(held, Target.ABSENT, ())
    assert isinstance(action, Change)
    assert action.instance == Instance(
        InstancePhase.ABSENT, NOW, ATTEMPT, order=ORDER, generation=1
    )


def test_reversing_a_removal_raises_the_attempt() -> None:
    assert after(instance(InstancePhase.REMOVING)) == Remove(HERE.id)
    action = after(instance(InstancePhase.REMOVING), containers=())
    assert phase_of(action) is InstancePhase.CREATING
    assert isinstance(action, Change)
    assert action.instance.attempt == ATTEMPT + 1


@pytest.mark.parametrize("phase", InstancePhase)
@pytest.mark.parametrize("want", Target)
def test_an_earlier_attempt_is_removed_before_anything_else(
    phase: InstancePhase, want: Target
) -> None:
    earlier = SeenContainer("c2", ATTEMPT - 1, SeenState.RUNNING)
    assert after(instance(phase), want, (HERE, earlier)) in (Remove("c2"), Remove(HERE.id))
    assert after(instance(phase), want, (earlier,)) == Remove("c2")


@pytest.mark.parametrize("phase", InstancePhase)
@pytest.mark.parametrize("want", Target)
@pytest.mark.parametrize("seen", [HERE, MADE, ENDED])
def test_the_current_container_is_removed_only_once_it_is_given_up(
    phase: InstancePhase, want: Target, seen: SeenContainer
) -> None:
    action = after(instance(phase), want, (seen,))
    assert (action == Remove(HERE.id)) == (phase in HAS_NONE)


@pytest.mark.parametrize("phase", HAS_CONTAINER)
def test_a_container_that_ended_is_written_down_with_its_log(phase: InstancePhase) -> None:
    action = after(instance(phase), containers=(ENDED,))
    assert isinstance(action, Change)
    assert action.instance.phase is InstancePhase.BACKOFF
    assert action.instance.reason == "its container ended: exit code 1"
    assert action.logs_of == HERE.id


@pytest.mark.parametrize("phase", HAS_CONTAINER)
@pytest.mark.parametrize("containers", [(), (replace(HERE, id="another", address="10.0.0.4:1"),)])
def test_a_container_that_is_gone_is_not_confused_with_one_made_late(
    phase: InstancePhase, containers: tuple[SeenContainer, ...]
) -> None:
    action = after(instance(phase), containers=containers, predictor=NEW)
    assert isinstance(action, Change)
    assert action.instance.phase is InstancePhase.BACKOFF
    assert action.instance.reason == "its container is gone"


def test_a_container_that_is_gone_does_not_count_as_a_failure() -> None:
    tried = replace(instance(InstancePhase.SERVING), failures=3, generation=1)
    action = after(tried, containers=())
    assert isinstance(action, Change)
    assert action.instance.failures == 3
    assert action.instance.retry_time == NOW + timedelta(seconds=FIRST_PAUSE_S)


@pytest.mark.parametrize("phase", InstancePhase)
def test_an_engine_that_does_not_answer_ends_no_attempt(phase: InstancePhase) -> None:
    action = after(instance(phase), containers=None)
    if phase not in (InstancePhase.ABSENT, InstancePhase.FAILED):
        assert not isinstance(action, Change) or action.instance.phase in HAS_CONTAINER
        assert not isinstance(action, Remove | Create)


def test_a_later_attempt_than_is_written_is_given_up() -> None:
    later = SeenContainer("c9", 9, SeenState.RUNNING)
    action = after(instance(InstancePhase.ABSENT), Target.ABSENT, (later,))
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.attempt) == (InstancePhase.REMOVING, 9)


def test_pauses_double_up_to_the_longest_and_attempts_go_on() -> None:
    held, pauses = instance(InstancePhase.CREATING), []
    for _ in range(12):
        held = failed(held, SPEC, "ill", NOW).instance
        assert held.phase is InstancePhase.BACKOFF
        assert held.retry_time is not None
        pauses.append((held.retry_time - NOW).total_seconds())
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    over = failed(held, SPEC, "ill", NOW, for_good=True).instance
    assert (over.phase, over.retry_time, over.reason) == (InstancePhase.FAILED, None, "ill")


def test_backoff_waits_for_its_time_and_then_begins_a_new_attempt() -> None:
    held = failed(instance(InstancePhase.CREATING), SPEC, "ill", NOW).instance
    assert after(held, containers=()) == Rest(held.retry_time)
    assert is_waiting(after(held, containers=None, passed_s=2))
    action = after(held, containers=(), passed_s=2)
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.attempt) == (InstancePhase.CREATING, ATTEMPT + 1)
    assert action.instance.failures == 1


def test_backoff_and_failed_begin_again_when_asked_for_again() -> None:
    again = replace(SPEC, generation=2)
    pausing = failed(instance(InstancePhase.CREATING), SPEC, "ill", NOW).instance
    assert phase_of(after(pausing, containers=(), spec=again)) is InstancePhase.CREATING
    over = failed(instance(InstancePhase.CREATING), SPEC, "ill", NOW, for_good=True).instance
    assert after(over, containers=()) == Rest()
    action = after(over, containers=(), spec=again)
    assert isinstance(action, Change)
    assert (action.instance.phase, action.instance.failures) == (InstancePhase.CREATING, 0)


@pytest.mark.parametrize("phase", [InstancePhase.IDLE, InstancePhase.SERVING])
def test_failures_are_counted_anew_after_a_stable_time(phase: InstancePhase) -> None:
    held = instance(phase, failures=7)
    soon, late = NOW + timedelta(seconds=1), NOW + timedelta(seconds=STABLE_S + 1)
    assert failed(held, SPEC, "ill", soon).instance.failures == 8
    assert failed(held, SPEC, "ill", late).instance.failures == 1


def test_failures_are_counted_anew_for_another_generation() -> None:
    held = instance(InstancePhase.CREATING, failures=7)
    assert failed(held, replace(SPEC, generation=2), "ill", NOW).instance.failures == 1


@given(some.integers(0, 10**9))
def test_no_number_of_failures_is_too_many(count: int) -> None:
    change = failed(instance(InstancePhase.CREATING, failures=count), SPEC, "ill", NOW)
    if change.instance.retry_time is not None:
        assert change.instance.retry_time <= NOW + timedelta(seconds=LONGEST_PAUSE_S)


def test_a_instance_that_served_nothing_fails_for_good_when_its_model_is_refused() -> None:
    change = refused(instance(InstancePhase.LOADING), SPEC, "no model", NOW)
    assert (change.instance.phase, change.instance.reason) == (InstancePhase.FAILED, "no model")


def test_a_instance_that_serves_keeps_what_it_has_until_it_is_asked_again() -> None:
    kept = refused(instance(InstancePhase.REPLACING), SPEC, "no model", NOW).instance
    assert (kept.phase, kept.digest, kept.incoming) == (InstancePhase.SERVING, "old", "")
    assert after(kept, predictor=OLD) == Rest()
    assert Deployment("a1", SPEC, (kept,)).state is State.FAILED
    again = replace(SPEC, generation=2)
    assert phase_of(after(kept, predictor=OLD, spec=again)) is InstancePhase.REPLACING
    assert Deployment("a1", again, (kept,)).state is State.LOADING


@pytest.mark.parametrize("other", InstancePhase)
def test_replicas_are_replaced_one_after_the_other(other: InstancePhase) -> None:
    instances = (instance(other), instance(InstancePhase.SERVING, digest="old"))
    deployment = Deployment("a1", replace(SPEC, replicas=2), instances)
    action = step(deployment, 1, Seen((HERE,), OLD), NOW)
    assert isinstance(action, Change) == (other in (InstancePhase.SERVING, InstancePhase.FAILED))


def test_a_instance_that_is_to_go_delays_no_replacement() -> None:
    deployment = Deployment(
        "a1",
        SPEC,
        (instance(InstancePhase.SERVING, digest="old"), instance(InstancePhase.REMOVING)),
    )
    assert phase_of(step(deployment, 0, Seen((HERE,), OLD), NOW)) is InstancePhase.REPLACING


@pytest.mark.parametrize("target", [Target.CREATED, Target.LOADED])
def test_instances_beyond_the_replicas_go(target: Target) -> None:
    spec = replace(SPEC, target=target)
    deployment = Deployment(
        "a1", spec, (instance(InstancePhase.SERVING), instance(InstancePhase.SERVING))
    )
    assert phase_of(step(deployment, 1, Seen((HERE,), NEW), NOW)) is InstancePhase.DRAINING


@pytest.mark.parametrize(
    ("needed", "leaves"),
    [
        (InstancePhase.SERVING, True),
        (InstancePhase.REPLACING, False),
        (InstancePhase.LOADING, False),
        (InstancePhase.BACKOFF, False),
        (InstancePhase.FAILED, False),
    ],
)
def test_one_too_many_stays_until_the_others_serve(needed: InstancePhase, leaves: bool) -> None:
    spec = replace(SPEC, target=Target.LOADED)
    deployment = Deployment("a1", spec, (instance(needed), instance(InstancePhase.SERVING)))
    action = step(deployment, 1, Seen((HERE,), NEW), NOW)
    if leaves:
        assert phase_of(action) is InstancePhase.DRAINING
    else:
        assert action == Rest()


@pytest.mark.parametrize(
    ("target", "phases", "state"),
    [
        (Target.ABSENT, (), State.TERMINATED),
        (Target.ABSENT, (InstancePhase.ABSENT, InstancePhase.ABSENT), State.TERMINATED),
        (Target.ABSENT, (InstancePhase.ABSENT, InstancePhase.REMOVING), State.TERMINATING),
        (Target.CREATED, (), State.CREATING),
        (Target.CREATED, (InstancePhase.IDLE, InstancePhase.CREATING), State.CREATING),
        (Target.CREATED, (InstancePhase.IDLE, InstancePhase.IDLE), State.CREATED),
        (Target.CREATED, (InstancePhase.IDLE, InstancePhase.DRAINING), State.UNLOADING),
        (Target.CREATED, (InstancePhase.IDLE, InstancePhase.FAILED), State.FAILED),
        (Target.LOADED, (InstancePhase.SERVING,), State.LOADING),
        (Target.LOADED, (InstancePhase.SERVING, InstancePhase.LOADING), State.LOADING),
        (Target.LOADED, (InstancePhase.SERVING, InstancePhase.REPLACING), State.LOADING),
        (Target.LOADED, (InstancePhase.SERVING, InstancePhase.SERVING), State.LOADED),
        (Target.LOADED, (InstancePhase.SERVING, InstancePhase.FAILED), State.FAILED),
        (
            Target.LOADED,
            (InstancePhase.SERVING, InstancePhase.SERVING, InstancePhase.FAILED),
            State.LOADING,
        ),
        (
            Target.LOADED,
            (InstancePhase.SERVING, InstancePhase.SERVING, InstancePhase.ABSENT),
            State.LOADED,
        ),
    ],
)
def test_state_follows_from_the_instances(
    target: Target, phases: tuple[InstancePhase, ...], state: State
) -> None:
    spec = replace(SPEC, replicas=2, target=target)
    assert Deployment("a1", spec, tuple(map(instance, phases))).state is state


def test_state_is_not_failed_any_more_once_it_is_asked_for_again() -> None:
    over = failed(instance(InstancePhase.CREATING), SPEC, "ill", NOW, for_good=True).instance
    again = replace(SPEC, generation=2)
    assert Deployment("a1", SPEC, (over,)).state is State.FAILED
    assert Deployment("a1", again, (over,)).state is State.LOADING


texts = some.sampled_from(["", "old", "new", "c1", "c3"])
seconds = some.integers(-1000, 1000)
times = some.none() | seconds.map(lambda each: NOW + timedelta(seconds=each))
instances = some.builds(
    Instance,
    phase=some.sampled_from(InstancePhase),
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
    instances=some.lists(instances, min_size=1, max_size=3).map(tuple),
)
containers = some.builds(
    SeenContainer,
    id=some.sampled_from(["c1", "c2", "c3"]),
    attempt=some.integers(0, 5),
    state=some.sampled_from(SeenState),
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
    index = place % len(deployment.instances)
    held = deployment.instances[index]
    assert deployment.state in State
    action = step(deployment, index, seen, NOW)
    match action:
        case Change(new):
            assert new.attempt >= held.attempt
            assert new != held
            if new.phase in PUBLISHED and held.phase not in (*PUBLISHED, InstancePhase.DRAINING):
                assert seen.predictor is not None
                assert new.digest == seen.predictor.digest
        case Remove(container_id):
            seen_attempts = [c.attempt for c in seen.containers or () if c.id == container_id]
            assert min(seen_attempts) <= held.attempt
        case Create(attempt):
            assert (attempt, held.phase) == (held.attempt, InstancePhase.CREATING)
        case Load() | Unload():
            assert held.phase in (
                InstancePhase.LOADING,
                InstancePhase.REPLACING,
                InstancePhase.UNLOADING,
            )
        case Rest(until):
            assert until is None or until.tzinfo is not None


@pytest.mark.parametrize(
    ("held", "is_told"),
    [
        (instance(InstancePhase.BACKOFF, failures=4), False),
        (instance(InstancePhase.BACKOFF, failures=5, reason="ill"), True),
        (instance(InstancePhase.CREATING, failures=9, reason="ill"), True),
        (instance(InstancePhase.SERVING, failures=9), False),
        (instance(InstancePhase.BACKOFF, failures=9, generation=0), False),
    ],
)
def test_callers_that_wait_are_told_of_many_failures(held: Instance, is_told: bool) -> None:
    trouble = Deployment("a1", SPEC, (held,)).trouble
    expected = f"{held.failures} attempts failed, the last one: ill"
    assert trouble == (expected if is_told else "")
    healthy = instance(InstancePhase.SERVING)
    spare = replace(SPEC, replicas=1)
    assert Deployment("a1", spare, (healthy, held)).trouble == ""
