"""Seeded mistakes. The search has to find what each of them breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from controller.deployments.actions import Action, Change, Load, Remove, Rest, Unload, entering
from controller.deployments.document import Deployment, InstancePhase, Target
from controller.deployments.failing import failed
from controller.deployments.lifecycle import step
from controller.seen import Seen
from tests.controller.model.laws import Bounds, Laws
from tests.controller.model.rounds import KEEPS


def _same_attempt(phase: InstancePhase) -> Laws:
    def revise(
        deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
    ) -> Action:
        instance = deployment.instances[index]
        match action:
            case Change(new) if instance.phase is phase and new.phase is InstancePhase.CREATING:
                return replace(action, instance=replace(new, attempt=instance.attempt))
        return action

    return Laws(revise=revise)


def _unknown_is_gone(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    if seen.containers is None:
        return step(deployment, index, replace(seen, containers=()), now)
    return action


def _stale_is_left(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    attempt = deployment.instances[index].attempt
    current = [each for each in seen.containers or () if each.attempt >= attempt]
    if isinstance(action, Remove) and len(current) < len(seen.containers or ()):
        return step(deployment, index, replace(seen, containers=current), now)
    return action


def _removal_unwritten(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    match action:
        case Change(new) if new.phase is InstancePhase.REMOVING:
            for each in seen.containers or ():
                return Remove(each.id)
    return action


def _undrained(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    match action:
        case Change(new) if new.phase is InstancePhase.DRAINING:
            return Unload(new.address, new.order)
    return action


def _attempts_forgotten(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    match action:
        case Change(new) if new.phase is InstancePhase.ABSENT:
            return replace(action, instance=replace(new, attempt=0))
    return action


def _silence_is_death(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    instance = deployment.instances[index]
    if instance.phase in (InstancePhase.IDLE, InstancePhase.SERVING) and seen.predictor is None:
        return failed(instance, deployment.spec, "its predictor is silent", now)
    return action


def _hangs_without_engine(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    instance = deployment.instances[index]
    if (
        instance.phase is InstancePhase.SERVING
        and seen.silent_since is not None
        and seen.containers is None
    ):
        return failed(instance, deployment.spec, "its predictor is silent", now)
    return action


def _unseen_is_published(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    instance = deployment.instances[index]
    if isinstance(action, Load) and instance.phase is InstancePhase.LOADING:
        return Change(replace(instance, phase=InstancePhase.SERVING), "it was asked to load")
    return action


def _any_container_will_do(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    instance = deployment.instances[index]
    if instance.phase not in KEEPS or instance.phase is InstancePhase.CREATING:
        return action
    blind = deployment.with_instance(index, replace(instance, container_id=""))
    other = step(blind, index, seen, now)
    if isinstance(other, Change) and not other.instance.container_id:
        return replace(other, instance=replace(other.instance, container_id=instance.container_id))
    return other


def _died_is_unwritten(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    match action:
        case Change(new, logs_of=str(container_id)) if container_id and new.phase not in KEEPS:
            return Remove(container_id)
    return action


def _leaves_at_once(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    instance = deployment.instances[index]
    too_many = index >= deployment.spec.replicas and instance.phase is InstancePhase.SERVING
    if too_many and isinstance(action, Rest):
        return entering(instance, InstancePhase.DRAINING, now, "not wanted any more")
    return action


def _all_at_once(
    deployment: Deployment, index: int, seen: Seen, now: datetime, action: Action
) -> Action:
    alone = replace(deployment.instances[index - 1], phase=InstancePhase.SERVING)
    return step(deployment.with_instance(index - 1, alone), index, seen, now)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake, and bounds within which it shows."""

    laws: Laws
    bounds: Bounds = field(default=Bounds(changes=1, deaths=1, late=1))


MUTATIONS: Mapping[str, Mutation] = {
    "fixed container name": Mutation(Laws(names_tell_attempts=False, labels_tell_attempts=False)),
    "remove by name": Mutation(Laws(names_tell_attempts=False, removal_by_id=False)),
    "no raise of the attempt on reversal": Mutation(
        _same_attempt(InstancePhase.REMOVING), Bounds(changes=2, deaths=0, late=1)
    ),
    "auto-remove by the engine": Mutation(Laws(auto_remove=True)),
    "no raise of the attempt after a death": Mutation(_same_attempt(InstancePhase.BACKOFF)),
    "attempts forgotten after termination": Mutation(
        Laws(revise=_attempts_forgotten), Bounds(changes=2, deaths=0, late=0)
    ),
    "names not unique": Mutation(Laws(names_are_unique=False)),
    "lease instead of compare-and-set": Mutation(Laws(compare_and_set=False)),
    "look before read": Mutation(Laws(read_before_look=False)),
    "failed look taken for no container": Mutation(Laws(revise=_unknown_is_gone)),
    "silent predictor taken for dead": Mutation(Laws(revise=_silence_is_death)),
    "stale containers left alone": Mutation(
        Laws(revise=_stale_is_left), Bounds(changes=0, deaths=1, late=1)
    ),
    "removal before it is written": Mutation(Laws(revise=_removal_unwritten)),
    "dead container removed before its end is written": Mutation(Laws(revise=_died_is_unwritten)),
    "unload before the endpoint is withdrawn": Mutation(Laws(revise=_undrained)),
    "published before the model was seen": Mutation(Laws(revise=_unseen_is_published)),
    "any container of the attempt taken for the one seen": Mutation(
        Laws(revise=_any_container_will_do), Bounds(changes=0, deaths=1, late=1)
    ),
    "hanging taken for sure while the engine is away": Mutation(
        Laws(revise=_hangs_without_engine), Bounds(changes=0, deaths=0, late=0, hangs=1)
    ),
    "no raise of the attempt after a hang": Mutation(
        _same_attempt(InstancePhase.BACKOFF), Bounds(changes=0, deaths=0, late=1, hangs=1)
    ),
    "no fence": Mutation(Laws(fenced=False), Bounds(changes=1, deaths=0, late=1)),
    "all replicas replaced at once": Mutation(
        Laws(revise=_all_at_once),
        Bounds(instances=2, serving=True, targets=(Target.LOADED,), changes=1, deaths=0, late=0),
    ),
    "one too many leaves before the others serve": Mutation(
        Laws(revise=_leaves_at_once),
        Bounds(
            instances=2,
            serving=True,
            targets=(Target.LOADED,),
            replicas=(1, 2),
            changes=1,
            deaths=1,
            late=0,
            digests=("m1",),
        ),
    ),
}
