"""Ensembles and their deployments, with two controllers, callers and faults, as a searched world.

The verbs and steps are the shipped ones, for ensembles and for the deployments' targets; what a
deployment does to reach its target, which has a search of its own, is a few phases here.
A controller reads the deployments, then the ensemble, decides, and carries that out, with anything
in between; a crash is a controller that forgets what it was about to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from controller.deployments import verbs as deployment_verbs
from controller.deployments.document import Deployment, Instance, InstancePhase, State, Target
from controller.deployments.verbs import Command
from controller.ensembles import verbs
from controller.ensembles.document import ClassModel, EnsembleDocument, Owned, Resources
from controller.ensembles.steps import Commands, Forget, Pause, Step, Write, ended, step
from controller.ensembles.verbs import Application, EnsembleUpdate
from tests.controller.model.values import Violation
from tests.controller.model.world import Move
from trillium.errors import DeploymentNotFound, RevisionNotFound

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
"""The rollback window is over."""
CONTENTS = {
    "one": (ClassModel("a", "m-a", 1, "a1"), ClassModel("b", "m-b", 1, "b1")),
    "two": (ClassModel("a", "m-a", 2, "a2"), ClassModel("b", "m-b", 1, "b1")),
    "shorter": (ClassModel("b", "m-b", 1, "b1"),),
}
"""They share a member, so that one is released while the other stays."""

Decide = Callable[[EnsembleDocument, Owned, datetime], Step]


@dataclass(frozen=True, slots=True)
class EnsembleBounds:
    """How often each thing may happen on one path. Crashes are not bounded."""

    changes: int = 2
    wishes: tuple[str, ...] = ("one", "two", "roll back", "delete")
    """What callers may ask for: a content, or a verb."""
    deaths: int = 0
    refused: str = ""
    """The digest that every predictor refuses."""
    controllers: int = 2
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class EnsembleLaws:
    """What is relied on. Every value that is not the default is a seeded mutation."""

    deployments_first: bool = True
    compare_and_set: bool = True
    fresh_ids: bool = True
    """Else a class has the same deployment id for ever."""
    decide: Decide = field(default=step)


class EnsembleMind(NamedTuple):
    """A controller in the midst of something."""

    does: str = "idle"
    """Or "looked", "writes", "commands"."""
    seen: Any = None
    """The deployments as they were read, or the document for the mutation that reads that first."""
    write: Any = None
    commands: tuple[Any, ...] = ()


class EnsembleState(NamedTuple):
    """All that is."""

    document: int
    """Number of the document, -1 while there is none."""
    deployments: tuple[tuple[str, int], ...]
    minds: tuple[EnsembleMind, ...]
    changes: int
    deaths: int


class EnsembleWorld:
    """All that can happen."""

    def __init__(self, bounds: EnsembleBounds, laws: EnsembleLaws) -> None:
        self.bounds = bounds
        self.laws = laws
        self.documents: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._decided: dict[Any, Any] = {}

    def begin(self) -> EnsembleState:
        document = verbs.apply(self._application("one"), None, NOW, life="x")
        minds = (EnsembleMind(),) * self.bounds.controllers
        return EnsembleState(
            self._number(document), (), minds, self.bounds.changes, self.bounds.deaths
        )

    def told(self, what: tuple[object, ...]) -> str:
        return " ".join(map(str, what))

    def is_done(self, state: EnsembleState) -> bool:
        live = {id: self.documents[number] for id, number in state.deployments}
        if any(mind != EnsembleMind() for mind in state.minds):
            return False
        if state.document < 0:
            return not live
        ensemble: EnsembleDocument = self.documents[state.document]
        wanted = ensemble.wanted if ensemble.target is Target.LOADED else ()
        held = {hold.deployment for hold in ensemble.holds}
        return (
            ensemble.target is not Target.ABSENT
            and ensemble.serving == wanted
            and live.keys() == held
            and all(hold.need == ensemble.need_of(_model_of(hold)) for hold in ensemble.holds)
            and all(_is_settled(each) for each in live.values())
        )

    def moves(self, state: EnsembleState) -> Iterator[Move]:
        self._check(state)
        yield from self._deployments_move(state)
        if state.changes:
            yield from self._callers_move(state)
        for index, mind in enumerate(state.minds):
            yield from self._controller_moves(state, index, mind)

    # What callers do

    def _application(self, content: str) -> Application:
        return Application("iris", CONTENTS[content], {}, rollback_window_s=self.bounds.window_s)

    def _callers_move(self, state: EnsembleState) -> Iterator[Move]:
        if state.document < 0:
            return
        before: EnsembleDocument = self.documents[state.document]
        if before.target is Target.ABSENT:
            return
        for wish in self.bounds.wishes:
            try:
                after = self._wished(before, wish)
            except RevisionNotFound:
                continue
            if after is not before:
                changed = self._with_document(state, after)._replace(changes=state.changes - 1)
                yield Move(("a caller asks for", wish), False, changed)

    def _wished(self, before: EnsembleDocument, wish: str) -> EnsembleDocument:
        match wish:
            case "roll back":
                return verbs.roll_back(before, 0, NOW)
            case "delete":
                return verbs.delete(before, NOW)
            case "unload":
                return verbs.update(before, EnsembleUpdate(target=Target.CREATED), NOW)
            case "load":
                return verbs.update(before, EnsembleUpdate(target=Target.LOADED), NOW)
            case "limit":
                change = EnsembleUpdate(resources={"b": Resources(1, 2.0, None)})
                return verbs.update(before, change, NOW)
        return verbs.apply(self._application(wish), before, NOW, life="x")

    # What deployments do

    def _deployments_move(self, state: EnsembleState) -> Iterator[Move]:
        for id, number in state.deployments:
            deployment: Deployment = self.documents[number]
            phase = deployment.instances[0].phase
            for after in _next_phases(deployment, deployment.spec.digest == self.bounds.refused):
                yield Move((id, "becomes", after.value), True, self._in_phase(state, id, after))
            if phase is InstancePhase.SERVING and state.deaths:
                died = self._in_phase(state, id, InstancePhase.BACKOFF)
                yield Move((id, "dies"), False, died._replace(deaths=state.deaths - 1))

    def _in_phase(self, state: EnsembleState, id: str, phase: InstancePhase) -> EnsembleState:
        before: Deployment = self.documents[dict(state.deployments)[id]]
        digest = before.spec.digest if phase is InstancePhase.SERVING else ""
        reason = "refused" if phase is InstancePhase.FAILED else ""
        instance = Instance(phase, digest=digest, reason=reason, generation=before.spec.generation)
        return self._with_deployment(state, replace(before, instances=(instance,)))

    # What controllers do

    def _controller_moves(
        self, state: EnsembleState, index: int, mind: EnsembleMind
    ) -> Iterator[Move]:
        def becoming(after: EnsembleMind, base: EnsembleState = state) -> EnsembleState:
            minds = [*base.minds]
            minds[index] = after
            return base._replace(minds=tuple(sorted(minds, key=repr)))

        who = f"controller {index}"
        if mind.does == "idle":
            first = state.deployments if self.laws.deployments_first else state.document
            yield Move((who, "looks"), True, becoming(EnsembleMind("looked", first)))
            return
        yield Move((who, "crashes"), False, becoming(EnsembleMind()))
        if mind.does == "looked":
            for now in (NOW, LATER):
                thought = self._thought(state, mind, now)
                if thought is not None:
                    yield Move((who, "decides", _briefly(thought)), True, becoming(thought))
        elif mind.does == "writes":
            yield Move((who, "writes"), True, becoming(EnsembleMind(), self._written(state, mind)))
        else:
            command, *others = mind.commands
            left = EnsembleMind("commands", commands=tuple(others)) if others else EnsembleMind()
            done = self._commanded(state, command)
            what = (who, command.verb.value, command.deployment)
            yield Move(what, True, becoming(left, done))

    def _thought(
        self, state: EnsembleState, mind: EnsembleMind, now: datetime
    ) -> EnsembleMind | None:
        document, seen = state.document, mind.seen
        if not self.laws.deployments_first:
            document, seen = mind.seen, state.deployments
        key = document, seen, now
        if key not in self._decided:
            self._decided[key] = self._decide(document, seen, now)
        decided: EnsembleMind | None = self._decided[key]
        return decided

    def _decide(
        self, document: int, seen: tuple[tuple[str, int], ...], now: datetime
    ) -> EnsembleMind | None:
        owned = {id: self.documents[number] for id, number in seen}
        if document < 0:
            commands = ended("iris", owned)
            return EnsembleMind("commands", commands=commands) if commands else EnsembleMind()
        ensemble = self.documents[document]
        if now == LATER and not ensemble.resting:
            return None
        taken = self.laws.decide(ensemble, owned, now)
        match taken:
            case Write(after):
                if not self.laws.fresh_ids:
                    after = _with_fixed_ids(after)
                return EnsembleMind("writes", write=(document, self._number(after)))
            case Forget():
                return EnsembleMind("writes", write=(document, -1))
            case Commands(commands):
                return EnsembleMind("commands", commands=commands)
            case Pause():
                return EnsembleMind()

    def _written(self, state: EnsembleState, mind: EnsembleMind) -> EnsembleState:
        before, after = mind.write
        if before != state.document and self.laws.compare_and_set:
            return state
        if after < 0:
            return state._replace(document=-1, changes=0)
        return self._with_document(state, self.documents[after])

    def _commanded(self, state: EnsembleState, command: Command) -> EnsembleState:
        numbers = dict(state.deployments)
        before = (
            self.documents[numbers[command.deployment]] if command.deployment in numbers else None
        )
        try:
            after = deployment_verbs.apply(command, before, NOW)
        except DeploymentNotFound:
            # Carried out late: it is gone already.
            return state
        plain = replace(after, unannounced=(), event_count=0)
        return self._with_deployment(state, plain)

    # States

    def _check(self, state: EnsembleState) -> None:
        if state.document < 0:
            return
        ensemble: EnsembleDocument = self.documents[state.document]
        live = {id: self.documents[number] for id, number in state.deployments}
        for share in ensemble.serving:
            revision = ensemble.revision(share.revision)
            if revision is None:
                raise Violation(f"revision {share.revision} serves and is forgotten")
            for model in revision.classes:
                if not any(_answers(each, model.digest) for each in live.values()):
                    raise Violation(
                        f"{model.class_label} of revision {share.revision} is not served"
                    )
        if not {hold.deployment for hold in ensemble.holds} >= {
            id
            for id, each in live.items()
            if each.spec.target is Target.ABSENT and self._is_held(ensemble, id)
        }:
            raise Violation("a held deployment is terminated")

    def _is_held(self, ensemble: EnsembleDocument, id: str) -> bool:
        return any(hold.deployment == id for hold in ensemble.holds)

    def _with_document(self, state: EnsembleState, document: EnsembleDocument) -> EnsembleState:
        if state.document >= 0:
            self._check_serving(self.documents[state.document], document)
        return state._replace(document=self._number(document))

    def _check_serving(self, before: EnsembleDocument, after: EnsembleDocument) -> None:
        if after.serving not in (before.serving, before.wanted, ()):
            raise Violation(f"{after.serving} serves, which nobody asked for")

    def _with_deployment(self, state: EnsembleState, deployment: Deployment) -> EnsembleState:
        numbers = dict(state.deployments)
        if deployment.state is State.TERMINATED:
            numbers.pop(deployment.id, None)
        else:
            numbers[deployment.id] = self._number(deployment)
        return state._replace(deployments=tuple(sorted(numbers.items())))

    def _number(self, document: Any) -> int:
        key = repr(document)
        number = self._numbers.setdefault(key, len(self.documents))
        if number == len(self.documents):
            self.documents.append(document)
        return number


def _next_phases(deployment: Deployment, is_refused: bool) -> list[InstancePhase]:
    instance, target = deployment.instances[0], deployment.spec.target
    if target is Target.ABSENT:
        return [InstancePhase.ABSENT]
    if target is Target.CREATED:
        return [] if instance.phase is InstancePhase.IDLE else [InstancePhase.IDLE]
    given_up = instance.phase is InstancePhase.FAILED
    same = instance.generation == deployment.spec.generation
    if instance.phase is InstancePhase.SERVING or (given_up and same):
        return []
    return [InstancePhase.FAILED if is_refused else InstancePhase.SERVING]


def _answers(deployment: Deployment, digest: str) -> bool:
    """Whether a deployment serves a model and is to go on with that; one that died counts."""
    phases = (InstancePhase.SERVING, InstancePhase.BACKOFF)
    return (
        deployment.spec.digest == digest
        and deployment.spec.target is Target.LOADED
        and deployment.instances[0].phase in phases
    )


def _is_settled(deployment: Deployment) -> bool:
    phase = deployment.instances[0].phase
    return phase in (InstancePhase.SERVING, InstancePhase.IDLE, InstancePhase.FAILED)


def _model_of(hold: Any) -> ClassModel:
    return ClassModel(hold.class_label, hold.model, hold.version, hold.need.digest)


def _with_fixed_ids(ensemble: EnsembleDocument) -> EnsembleDocument:
    holds = tuple(
        replace(each, deployment=f"{each.class_label}-{each.need.digest}")
        for each in ensemble.holds
    )
    return replace(ensemble, holds=holds)


def _briefly(mind: EnsembleMind) -> str:
    if mind.does == "commands":
        return ", ".join(f"{each.verb.value} {each.deployment}" for each in mind.commands)
    return mind.does
