"""What callers may do to a deployment, as pure functions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.document import Deployment, Instance, InstancePhase, Spec, State, Target
from controller.deployments.verbs import (
    LEGAL,
    REMEMBERED_REQUESTS,
    TARGETS,
    Command,
    Verb,
    apply,
)
from trillium.errors import DeploymentExists, DeploymentNotFound, IllegalStep

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = Spec("iris-setosa", 1, "a" * 64, "setosa", replicas=2)


def command(verb: Verb, request_id: str = "", spec: Spec | None = SPEC) -> Command:
    spec = spec if verb in (Verb.CREATE, Verb.LOAD) else None
    return Command(
        verb, "a1", spec, request_id, replicas=SPEC.replicas if verb is Verb.UPDATE else 0
    )


def made(*verbs: Verb) -> Deployment:
    """A deployment of which these were asked, one after the other."""
    deployment: Deployment | None = None
    for verb in verbs:
        deployment = apply(command(verb), deployment, NOW)
    assert deployment is not None
    return deployment


WANTED = {
    Target.CREATED: made(Verb.CREATE),
    Target.LOADED: made(Verb.LOAD),
    Target.ABSENT: made(Verb.CREATE, Verb.TERMINATE),
}


@pytest.mark.parametrize(("target", "verb"), list(itertools.product(Target, Verb)))
def test_the_table_says_which_verbs_are_legal(target: Target, verb: Verb) -> None:
    before = WANTED[target]
    if verb in LEGAL[target]:
        after = apply(command(verb), before, NOW)
        assert after.spec.target is TARGETS.get(verb, target)
        return
    with pytest.raises(IllegalStep) as caught:
        apply(command(verb), before, NOW)
    legal = ", ".join(each.value for each in LEGAL[target])
    assert caught.value.message.endswith(f"; legal: {legal}")
    assert before.state.value in caught.value.message


def test_the_table_is_as_its_words_say() -> None:
    assert LEGAL == {
        None: (Verb.CREATE, Verb.LOAD),
        Target.ABSENT: (Verb.CREATE, Verb.LOAD, Verb.TERMINATE),
        Target.CREATED: (Verb.CREATE, Verb.LOAD, Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE),
        Target.LOADED: (Verb.LOAD, Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE),
    }


@pytest.mark.parametrize("verb", [Verb.UPDATE, Verb.UNLOAD, Verb.TERMINATE])
def test_what_was_never_created_is_not_found(verb: Verb) -> None:
    with pytest.raises(DeploymentNotFound, match="create it first"):
        apply(command(verb), None, NOW)
    with pytest.raises(DeploymentNotFound, match="name a model"):
        apply(command(Verb.LOAD, spec=None), None, NOW)


@pytest.mark.parametrize("verb", [Verb.CREATE, Verb.LOAD])
def test_a_first_verb_makes_a_deployment_with_its_instances(verb: Verb) -> None:
    deployment = apply(command(verb, "r1"), None, NOW)
    assert deployment.spec == replace(SPEC, target=TARGETS[verb], generation=1)
    assert deployment.instances == (Instance(), Instance())
    assert (deployment.created, deployment.updated) == (NOW, NOW)
    assert deployment.requests == ("r1",)
    (event,) = deployment.unannounced
    assert (event.number, event.cause, event.before) == (1, f"{verb.value} was requested", "")
    assert event.after == TARGETS[verb].name


@pytest.mark.parametrize("target", Target)
def test_asking_for_what_is_wanted_already_changes_nothing(target: Target) -> None:
    verbs = {Target.ABSENT: Verb.TERMINATE, Target.CREATED: Verb.UNLOAD, Target.LOADED: Verb.LOAD}
    before = WANTED[target]
    assert apply(command(verbs[target]), before, NOW + timedelta(1)) is before


def test_creating_again_with_another_spec_is_refused() -> None:
    before = WANTED[Target.CREATED]
    assert apply(command(Verb.CREATE), before, NOW) is before
    others = (
        replace(SPEC, replicas=1),
        replace(SPEC, version=2, digest="b" * 64),
        replace(SPEC, model="iris-virginica"),
        replace(SPEC, cpus=1.0),
        replace(SPEC, memory_bytes=2**30),
    )
    for other in others:
        with pytest.raises(DeploymentExists):
            apply(command(Verb.CREATE, spec=other), before, NOW)


@given(
    verbs=st.lists(st.sampled_from(Verb), max_size=8),
    request=st.sampled_from(Verb),
    later=st.lists(st.sampled_from(Verb), max_size=8),
)
def test_a_request_has_one_effect_whenever_it_comes_again(
    verbs: list[Verb], request: Verb, later: list[Verb]
) -> None:
    deployment = made(Verb.CREATE)
    for verb in verbs:
        if verb in LEGAL[deployment.spec.target]:
            deployment = apply(command(verb), deployment, NOW)
    if request not in LEGAL[deployment.spec.target]:
        return
    before = deployment.spec.target
    deployment = apply(command(request, "r1"), deployment, NOW)
    assert deployment.spec.target is TARGETS.get(request, before)
    for verb in later:
        if verb in LEGAL[deployment.spec.target]:
            deployment = apply(command(verb), deployment, NOW)
        assert apply(command(request, "r1"), deployment, NOW) is deployment


def test_request_ids_are_forgotten_oldest_first() -> None:
    deployment = made(Verb.LOAD)
    for number in range(REMEMBERED_REQUESTS + 1):
        verb = (Verb.UNLOAD, Verb.LOAD)[number % 2]
        deployment = apply(command(verb, f"r{number}"), deployment, NOW)
    assert len(deployment.requests) == REMEMBERED_REQUESTS
    assert "r0" not in deployment.requests
    assert deployment.requests[-1] == f"r{REMEMBERED_REQUESTS}"


def test_a_new_life_goes_on_where_the_instances_ended() -> None:
    ended = made(Verb.LOAD, Verb.TERMINATE)
    ended = replace(
        ended, instances=(Instance(attempt=4), Instance(attempt=2)), run="r1", event_count=9
    )
    assert ended.state is State.TERMINATED
    other = Spec("iris-virginica", 3, "c" * 64, "virginica", replicas=3)
    again = apply(Command(Verb.CREATE, "a1", other), ended, NOW + timedelta(1))
    assert again.spec == replace(other, generation=ended.spec.generation + 1)
    assert [instance.attempt for instance in again.instances] == [4, 2, 0]
    assert (again.created, again.run, again.event_count) == (NOW, "", 10)
    fewer = apply(Command(Verb.CREATE, "a1", replace(other, replicas=1)), ended, NOW)
    # What is not needed any more stays an instance, and is absent.
    assert [instance.attempt for instance in fewer.instances] == [4, 2]
    assert apply(Command(Verb.LOAD, "a1"), ended, NOW).spec.model == SPEC.model


def test_a_load_may_change_the_version_and_nothing_else() -> None:
    before = WANTED[Target.LOADED]
    newer = Spec("iris-setosa", 2, "b" * 64, "setosa", replicas=7, cpus=3.0)
    after = apply(command(Verb.LOAD, spec=newer), before, NOW)
    assert after.spec == replace(before.spec, version=2, digest="b" * 64, generation=2)
    assert after.instances == before.instances
    assert apply(command(Verb.LOAD, spec=newer), after, NOW) is after


@pytest.mark.parametrize(
    ("target", "verb"),
    [(Target.CREATED, Verb.CREATE), (Target.LOADED, Verb.LOAD), (Target.CREATED, Verb.UNLOAD)],
)
def test_asking_again_for_what_failed_tries_again(target: Target, verb: Verb) -> None:
    failed = Instance(InstancePhase.FAILED, attempt=6, failures=6, generation=1, reason="it died")
    before = replace(WANTED[target], instances=(failed, Instance()))
    assert before.state is State.FAILED
    after = apply(command(verb), before, NOW)
    assert after.spec.generation == before.spec.generation + 1
    assert after.state is not State.FAILED
    ended = apply(command(Verb.TERMINATE), before, NOW)
    assert apply(command(Verb.TERMINATE), ended, NOW) is ended


@given(verbs=st.lists(st.sampled_from(Verb), max_size=12))
def test_events_are_numbered_without_gaps_and_generations_grow(verbs: list[Verb]) -> None:
    deployment = made(Verb.CREATE)
    for verb in verbs:
        before = deployment
        if verb not in LEGAL[before.spec.target]:
            continue
        deployment = apply(command(verb), before, NOW)
        if deployment is not before:
            assert deployment.spec.generation == before.spec.generation + 1
            assert deployment.event_count == before.event_count + 1
            assert deployment.unannounced[-1].number == deployment.event_count
    numbers = [event.number for event in deployment.unannounced]
    assert numbers == list(range(1, deployment.event_count + 1))


@pytest.mark.parametrize("target", [Target.CREATED, Target.LOADED])
def test_update_changes_the_number_of_predictors(target: Target) -> None:
    before = WANTED[target]
    more = apply(Command(Verb.UPDATE, "a1", replicas=3), before, NOW)
    assert more.spec == replace(before.spec, replicas=3, generation=before.spec.generation + 1)
    assert more.instances == (*before.instances, Instance())
    assert more.unannounced[-1].cause == "update to 3 replicas was requested"
    fewer = apply(Command(Verb.UPDATE, "a1", replicas=1), more, NOW)
    assert (fewer.spec.replicas, len(fewer.instances)) == (1, 3)
    assert apply(Command(Verb.UPDATE, "a1", replicas=1), fewer, NOW) is fewer


def test_deployment_has_got_there_once_those_too_many_are_gone() -> None:
    serving = Instance(InstancePhase.SERVING, digest=SPEC.digest)
    spec = replace(SPEC, replicas=1, target=Target.LOADED)
    assert Deployment("a1", spec, (serving, serving)).state is State.LOADING
    assert Deployment("a1", spec, (serving, Instance())).state is State.LOADED
    idle = Instance(InstancePhase.IDLE)
    created = replace(spec, target=Target.CREATED)
    assert Deployment("a1", created, (idle, idle)).state is State.CREATING
    assert Deployment("a1", created, (idle, Instance())).state is State.CREATED
