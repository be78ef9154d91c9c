"""One round of a controller: what the shipped `step` may decide, after all that a look may show."""

from __future__ import annotations

from datetime import datetime
from itertools import product
from typing import NamedTuple

from controller.deployments.actions import Action, Change, Create, Load, Remove, Rest, Unload
from controller.deployments.document import PUBLISHED, Deployment, Instance, InstancePhase
from controller.deployments.lifecycle import step
from controller.seen import Seen, SeenContainer, SeenPredictor, SeenState
from tests.controller.model.documents import BEGUN, DUE, OVERDUE, Documents
from tests.controller.model.laws import Laws
from tests.controller.model.values import RUNNING, Box, Request, Violation

KEEPS = frozenset(InstancePhase) - {
    InstancePhase.ABSENT,
    InstancePhase.REMOVING,
    InstancePhase.BACKOFF,
    InstancePhase.FAILED,
}
"""Phases in which the container of the attempt that is written is to be left alone."""

_STATES = (SeenState.STARTING, SeenState.RUNNING, SeenState.EXITED)


class Outcome(NamedTuple):
    """What a controller may be about to do after a round."""

    instance: int
    """Number of the instance that it is to write; -1 if none."""
    request: Request | None
    """What it is to send; if neither, it rests."""
    cause: str
    is_fair: bool
    """Whether it comes out so when nothing fails."""
    overran: bool
    """Whether it comes out so only when something takes longer than its limit."""
    excused: bool
    """Whether a container that runs may be given up for it: something took too long, or hung."""


class Rounds:
    """Every round that was ever asked for."""

    def __init__(self, documents: Documents, laws: Laws) -> None:
        self._documents = documents
        self._laws = laws
        self._known: dict[tuple[int, int, tuple[Box, ...]], tuple[Outcome, ...]] = {}

    def outcomes(self, document: int, index: int, boxes: tuple[Box, ...]) -> tuple[Outcome, ...]:
        """All that may come of a round on that document, with those containers in the engine.

        Raises Violation if the shipped code decides something that it never may.
        """
        key = document, index, boxes
        if (found := self._known.get(key)) is None:
            found = self._known[key] = tuple(self._run(document, index, boxes))
        return found

    def _run(self, document: int, index: int, boxes: tuple[Box, ...]) -> list[Outcome]:
        read = self._documents[document]
        containers = self._containers(read, index, boxes)
        predictor = _predictor(read.instances[index], containers, boxes)
        best: dict[tuple[int, Request | None], Outcome] = {}
        answers = (predictor,) if predictor is None else (predictor, None)
        hangs = _hangs(read.instances[index], boxes)
        silences = (None, BEGUN) if hangs else (None,)
        for engine, answer, confirmed, now, silent in product(
            (containers, None), answers, (False, True), (BEGUN, DUE, OVERDUE), silences
        ):
            seen = Seen(engine, answer, confirmed, silent)
            action = step(read, index, seen, now)
            action = self._laws.revise(read, index, seen, now, action)
            instance, request, cause = self._told(read, index, action)
            # Whoever hangs takes too long as a matter of course.
            overran = now is OVERDUE and not hangs
            is_fair = engine is containers and answer is predictor and not overran
            excused = now is OVERDUE or (silent is not None and engine is not None)
            outcome = Outcome(instance, request, cause, is_fair, overran, excused)
            what = ("a controller", "has read", document, outcome)
            self._check(read, index, seen, now, action, what)
            known = best.setdefault((instance, request), outcome)
            better = (overran, not is_fair, excused)
            if better < (known.overran, not known.is_fair, known.excused):
                best[instance, request] = outcome
        return list(best.values())

    def _containers(
        self, read: Deployment, index: int, boxes: tuple[Box, ...]
    ) -> tuple[SeenContainer, ...]:
        current = read.instances[index].attempt
        return tuple(
            SeenContainer(
                box.id,
                box.attempt if self._laws.labels_tell_attempts else current,
                _STATES[box.state],
                f"a{box.address}",
            )
            for box in boxes
            if box.instance == index
        )

    def _told(
        self, read: Deployment, index: int, action: Action
    ) -> tuple[int, Request | None, str]:
        match action:
            case Change(instance, cause):
                return self._documents.add_instance(instance, read.spec), None, cause
            case Create(attempt):
                return -1, Request("create", index, attempt), ""
            case Remove(container_id):
                place, attempt, number = map(int, container_id.split("."))
                return -1, Request("remove", place, attempt, number), ""
            case Load(address, digest, order):
                place = int(address[1:])
                return -1, Request("load", 0, address=place, digest=digest, order=order), ""
            case Unload(address, order):
                return -1, Request("unload", 0, address=int(address[1:]), order=order), ""
            case Rest():
                return -1, None, ""

    def _check(
        self,
        read: Deployment,
        index: int,
        seen: Seen,
        now: datetime,
        action: Action,
        what: tuple[object, ...],
    ) -> None:
        """What must hold of a decision, by what it was made of."""
        instance, problem = read.instances[index], ""
        match action:
            case Create(attempt):
                if instance.phase is not InstancePhase.CREATING or attempt != instance.attempt:
                    problem = f"attempt {attempt} is made without a written intent"
            case Remove(container_id):
                attempts = [c.attempt for c in seen.containers or () if c.id == container_id]
                if attempts == [instance.attempt] and instance.phase in KEEPS:
                    problem = f"container {container_id} is to go, but is not given up"
            case Unload():
                if instance.phase in PUBLISHED:
                    problem = "a predictor is to unload before its endpoint is withdrawn"
            case Load(_, digest, _):
                if instance.phase in PUBLISHED and digest != instance.incoming:
                    problem = f"{digest} is to be loaded without a written intent"
            case Change(new):
                appears = instance.phase not in PUBLISHED or instance.digest != new.digest
                if new.phase in PUBLISHED and appears:
                    digest = "" if seen.predictor is None else seen.predictor.digest
                    if new.digest != digest or not digest:
                        problem = f"{new.digest} is published, but {digest or 'nothing'} was seen"
                over = instance.phase in KEEPS and new.phase in (
                    InstancePhase.BACKOFF,
                    InstancePhase.FAILED,
                )
                if over and seen.containers is None and now is not OVERDUE:
                    problem = "an attempt is given up while the engine does not answer"
        if problem:
            raise Violation(problem, what)


def _predictor(
    instance: Instance, containers: tuple[SeenContainer, ...], boxes: tuple[Box, ...]
) -> SeenPredictor | None:
    """What answers where the current container is or was, whoever that is."""
    address = instance.address
    for container in containers:
        if container.attempt == instance.attempt:
            address = container.address
    for box in boxes:
        if f"a{box.address}" == address and box.state == RUNNING and not box.hangs:
            return SeenPredictor(box.digest, bool(box.incoming), box.fence)
    return None


def _hangs(instance: Instance, boxes: tuple[Box, ...]) -> bool:
    """Whether the predictor of the instance's container hangs, which probes find out in the end."""
    return any(box.id == instance.container_id and box.hangs for box in boxes)
