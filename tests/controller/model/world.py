"""The world around the shipped `step`: a document, an engine, predictors, controllers, and faults.

`World.moves` answers everything that can happen next in a state. The world keeps the rules that the
architecture relies on (`Laws`), raises `Violation` when something happens that never may, and asks
`controller.deployments.lifecycle` for every decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

from controller.deployments.document import Deployment, Instance, InstancePhase, Target
from controller.deployments.failing import refused
from tests.controller.model.documents import BEGUN, Documents
from tests.controller.model.laws import Bounds, Laws, spec
from tests.controller.model.orders import with_small_orders
from tests.controller.model.promises import (
    answering,
    check_order,
    check_removal,
    check_state,
    check_write,
    is_done,
)
from tests.controller.model.rounds import Rounds
from tests.controller.model.traces import told
from tests.controller.model.values import (
    ASKS,
    EXITED,
    HAS_LOOKED,
    HAS_READ,
    IDLE,
    RUNNING,
    STARTING,
    WRITES,
    Box,
    Left,
    Mind,
    Request,
    State,
)

_IDLE = Mind()


class Move(NamedTuple):
    """Something that can happen."""

    what: tuple[object, ...]
    """For a person."""
    is_fair: bool
    """Whether it also happens when nothing goes wrong any more."""
    state: Any
    """What it leads to."""


class Decision(NamedTuple):
    """What a controller decides to do next."""

    what: tuple[object, ...]
    is_fair: bool
    overran: bool
    """Whether it comes to that only when something takes longer than its limit."""
    mind: Mind
    """What the controller becomes."""


class World:
    """All that can happen, under some laws and within some bounds."""

    def __init__(self, bounds: Bounds, laws: Laws) -> None:
        self.bounds = bounds
        self.laws = laws
        self.documents = Documents()
        self._rounds = Rounds(self.documents, laws)
        self._decided: dict[tuple[int, tuple[Box, ...], bool], list[Decision]] = {}

    def begin(self) -> State:
        """The state where all paths begin."""
        bounds = self.bounds
        instances, boxes = [], []
        for index in range(bounds.instances):
            instance, digest = Instance(), bounds.digests[0]
            if bounds.serving:
                box = Box(index, 1, 1, RUNNING, index + 1, digest)
                instance = Instance(
                    InstancePhase.SERVING, None, 1, box.id, f"a{box.address}", digest
                )
                boxes.append(box)
            instances.append(instance)
        document = self.documents.add(Deployment("a1", spec(bounds), tuple(instances)))
        left = Left(bounds.changes, bounds.deaths, bounds.late, bounds.overruns, bounds.hangs)
        return State(document, tuple(boxes), (_IDLE,) * bounds.controllers, (), left)

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next. Raises Violation if something does that never may."""
        for move in self._moves(state):
            small = with_small_orders(self.documents, move.state)
            yield move if small is move.state else Move(move.what, move.is_fair, small)

    def _moves(self, state: State) -> Iterator[Move]:
        check_state(self.documents[state.document], state, self.bounds)
        yield from self._controllers_move(state)
        for number, request in enumerate(state.under_way):
            others = state.under_way[:number] + state.under_way[number + 1 :]
            yield from self._carried_out(state._replace(under_way=others), request, "late")
        for box in state.boxes:
            if box.incoming and not box.hangs:
                done = box._replace(digest=box.incoming, incoming="")
                yield Move(("it reads", box.incoming), True, _with(state, box, done))
        if state.left.changes:
            yield from self._spec_changes(state)
        if state.left.deaths:
            yield from self._containers_die(state)
        yield from self._predictors_hang(state)

    def told(self, what: tuple[object, ...]) -> str:
        """What happens, for a person."""
        return told(self.documents, what)

    def is_done(self, state: State) -> bool:
        """Whether what is wanted is there, and nothing else, and nothing is under way."""
        return is_done(self.documents[state.document], state, self.bounds)

    # What controllers do.

    def _controllers_move(self, state: State) -> Iterator[Move]:
        for number, mind in enumerate(state.minds):
            if number and mind == state.minds[number - 1]:
                continue  # Controllers are alike.
            others = state.minds[:number] + state.minds[number + 1 :]
            if mind.does in (IDLE, HAS_READ):
                yield from self._looks(state, mind, others)
            elif mind.does == HAS_LOOKED:
                yield from self._reads(state, mind, others)
            elif mind.does == WRITES:
                yield Move(("a controller crashes",), False, _minded(state, others, _IDLE))
                yield from self._writes(state, mind, others)
            else:
                yield Move(("a controller crashes",), False, _minded(state, others, _IDLE))
                yield from self._asks(state, mind, others)

    def _looks(self, state: State, mind: Mind, others: tuple[Mind, ...]) -> Iterator[Move]:
        is_fresh = mind.does == IDLE
        if is_fresh and not self.laws.read_before_look:
            looked = Mind(HAS_LOOKED, boxes=state.boxes)
            yield Move(("a controller looks",), True, _minded(state, others, looked))
            return
        document = state.document if is_fresh else mind.document
        yield from self._decides(state, document, state.boxes, is_fresh, others)

    def _reads(self, state: State, mind: Mind, others: tuple[Mind, ...]) -> Iterator[Move]:
        yield from self._decides(state, state.document, mind.boxes, True, others)

    def _decides(
        self,
        state: State,
        document: int,
        boxes: tuple[Box, ...],
        is_fresh: bool,
        others: tuple[Mind, ...],
    ) -> Iterator[Move]:
        # Most states differ in something else only.
        key = document, boxes, is_fresh
        if (decided := self._decided.get(key)) is None:
            decided = self._decided[key] = list(self._decisions(document, boxes, is_fresh))
        for what, is_fair, overran, mind in decided:
            now = state
            if overran:
                if not state.left.overruns:
                    continue
                left = state.left._replace(overruns=state.left.overruns - 1)
                now = state._replace(left=left)
            yield Move(what, is_fair, _minded(now, others, mind))

    def _decisions(
        self, document: int, boxes: tuple[Box, ...], is_fresh: bool
    ) -> Iterator[Decision]:
        read = "reads" if is_fresh else "had read before that"
        for index in range(self.bounds.instances):
            for outcome in self._rounds.outcomes(document, index, boxes):
                if outcome.request is not None:
                    # Only a load can be refused, which matters as long as nobody wrote.
                    flag = is_fresh and outcome.request.verb == "load" and self.bounds.refused != ""
                    mind = Mind(ASKS, 0, index, flag=flag, request=outcome.request)
                elif outcome.instance >= 0 and (is_fresh or not self.laws.compare_and_set):
                    mind = Mind(WRITES, 0, index, outcome.instance, outcome.excused)
                elif not is_fresh:
                    # It rests, or what it writes is not taken.
                    mind = _IDLE
                else:
                    continue
                what = ("a controller", read, document, outcome)
                yield Decision(what, outcome.is_fair, outcome.overran, mind)

    def _writes(self, state: State, mind: Mind, others: tuple[Mind, ...]) -> Iterator[Move]:
        before = self.documents[state.document].instances[mind.place]
        after = self.documents.instance(mind.instance)
        what = ("a controller writes", mind.place, before, after)
        check_write(self.documents[state.document], state, mind, after, what)
        document = self.documents.written(state.document, mind.place, mind.instance)
        for minds in self._noticed(state, others):
            known = (*minds, _IDLE)
            written = state._replace(document=document, minds=tuple(sorted(known)))
            yield Move(what, True, written)

    def _asks(self, state: State, mind: Mind, others: tuple[Mind, ...]) -> Iterator[Move]:
        request = mind.request
        after = _minded(state, others, _IDLE)
        if state.left.late:
            left = state.left._replace(late=state.left.late - 1)
            kept = tuple(sorted((*state.under_way, request)))
            what = ("a controller gives up while it is under way:", request)
            yield Move(what, False, after._replace(under_way=kept, left=left))
            twice = state._replace(under_way=kept, left=left)
            if request.verb != "remove":
                for move in self._carried_out(_minded(twice, others, _IDLE), request, "twice"):
                    yield move._replace(is_fair=False)
        for move in self._carried_out(after, request, "now"):
            if request.verb == "create" and move.what[0] == "the engine makes":
                # It is made, but not yet started: the same request goes on.
                minds = tuple(sorted((*others, mind)))
                yield move._replace(
                    state=move.state._replace(minds=minds, under_way=state.under_way)
                )
            elif move.what[0] == "refused:" and mind.flag:
                document = self.documents[state.document]
                change = refused(document.instances[mind.place], document.spec, "no model", BEGUN)
                instance = self.documents.add_instance(change.instance, document.spec)
                writes = Mind(WRITES, 0, mind.place, instance, True)
                yield move._replace(state=_minded(move.state, others, writes))
            else:
                yield move

    def _noticed(self, state: State, minds: tuple[Mind, ...]) -> Iterable[tuple[Mind, ...]]:
        """What controllers hold after the document that they may have read was changed."""
        choices: list[tuple[Mind, ...]] = []
        for mind in minds:
            if mind.does == IDLE and self.laws.read_before_look:
                choices.append((mind, Mind(HAS_READ, state.document)))
            elif mind.does == WRITES and self.laws.compare_and_set:
                choices.append((_IDLE,))
            elif mind.does == ASKS and mind.flag:
                choices.append((mind._replace(flag=False),))
            else:
                choices.append((mind,))
        return {tuple(sorted(each)) for each in product(*choices)}

    # What the engine and the predictors do.

    def _carried_out(self, state: State, request: Request, when: str) -> Iterator[Move]:
        if request.verb == "create":
            yield self._create(state, request, when)
        elif request.verb == "remove":
            yield self._remove(state, request, when)
        else:
            yield self._ask_predictor(state, request, when)

    def _create(self, state: State, request: Request, when: str) -> Move:
        namesake = None
        for box in state.boxes:
            same = not self.laws.names_tell_attempts or box.attempt == request.attempt
            if box.instance == request.instance and same and self.laws.names_are_unique:
                namesake = box
        if namesake is None:
            box = Box(request.instance, request.attempt, 0, STARTING, _free(state.boxes))
            box = box._replace(number=self._new_number(state, box))
            boxes = tuple(sorted((*state.boxes, box)))
            kept = tuple(sorted((*state.under_way, request)))
            made = state._replace(boxes=boxes, under_way=kept)
            return Move(("the engine makes", box.id, when), True, made)
        if namesake.state == STARTING:
            started = namesake._replace(state=RUNNING)
            return Move(
                ("the engine starts", namesake.id, when), True, _with(state, namesake, started)
            )
        return Move(("the engine finds", namesake.id, when), True, state)

    def _new_number(self, state: State, box: Box) -> int:
        """A number so that its id is not that of anything that is or is remembered."""
        documents = [state.document, *(m.document for m in state.minds if m.does == HAS_READ)]
        taken = {
            instance.container_id
            for each in documents
            for instance in self.documents[each].instances
        }
        taken |= {each.id for each in state.boxes}
        requests = [*state.under_way, *(mind.request for mind in state.minds)]
        taken |= {f"{r.instance}.{r.attempt}.{r.number}" for r in requests if r.verb == "remove"}
        for mind in state.minds:
            taken |= {each.id for each in mind.boxes}
            if mind.does == WRITES:
                taken.add(self.documents.instance(mind.instance).container_id)
        number = 1
        while box._replace(number=number).id in taken:
            number += 1
        return number

    def _remove(self, state: State, request: Request, when: str) -> Move:
        for box in state.boxes:
            same = box.attempt == request.attempt or not self.laws.names_tell_attempts
            named = box.instance == request.instance and same
            if named if not self.laws.removal_by_id else box.id == _id_of(request):
                what = ("the engine removes", box.id, when)
                check_removal(self.documents[state.document], box, what)
                return Move(what, True, _with(state, box, None))
        return Move(("in vain:", request), True, state)

    def _ask_predictor(self, state: State, request: Request, when: str) -> Move:
        box = answering(state, request.address)
        if box is None or box.incoming:
            return Move(("in vain:", request), True, state)
        if self.laws.fenced and request.order < box.fence:
            return Move(("overtaken:", request), True, state)
        passed = box._replace(fence=max(box.fence, request.order))
        if request.digest == self.bounds.refused != "":
            return Move(("refused:", request), True, _with(state, box, passed))
        if box.digest == request.digest:
            return Move(("nothing new:", request), True, _with(state, box, passed))
        what = ("a predictor carries out", request, when)
        check_order(self.documents[state.document], box, request, self.bounds, what)
        if request.verb == "load" and self.bounds.slow_loads:
            reads = passed._replace(incoming=request.digest)
            return Move(what, True, _with(state, box, reads))
        has = passed._replace(digest=request.digest)
        return Move(what, True, _with(state, box, has))

    # What callers and strangers do.

    def _spec_changes(self, state: State) -> Iterator[Move]:
        document = self.documents[state.document]
        old = document.spec
        left = state.left._replace(changes=state.left.changes - 1)
        for target in self.bounds.targets:
            for digest in self.bounds.digests if target is Target.LOADED else (old.digest,):
                again = any(
                    s.phase is InstancePhase.FAILED or s.refused for s in document.instances
                )
                if (target, digest) == (old.target, old.digest) and not again:
                    continue
                wish = (target.name, digest)
                yield from self._wished(state, left, wish, target, digest, old.replicas)
        for replicas in self.bounds.replicas:
            if replicas != old.replicas and old.target is not Target.ABSENT:
                yield from self._wished(
                    state, left, (replicas, "replicas"), old.target, old.digest, replicas
                )

    def _wished(
        self,
        state: State,
        left: Left,
        wish: tuple[object, ...],
        target: Target,
        digest: str,
        replicas: int,
    ) -> Iterator[Move]:
        what = ("the caller wants", *wish)
        number = self.documents.wished(state.document, target, digest, replicas)
        for minds in self._noticed(state, state.minds):
            changed = state._replace(document=number, minds=minds, left=left)
            yield Move(what, False, changed)

    def _predictors_hang(self, state: State) -> Iterator[Move]:
        left = state.left._replace(hangs=state.left.hangs - 1)
        for box in state.boxes:
            if box.hangs:
                awake = _with(state, box, box._replace(hangs=False))
                yield Move(("it answers again:", box.id), False, awake)
            elif box.state == RUNNING and state.left.hangs:
                silent = _with(state, box, box._replace(hangs=True))._replace(left=left)
                yield Move(("it hangs:", box.id), False, silent)

    def _containers_die(self, state: State) -> Iterator[Move]:
        left = state.left._replace(deaths=state.left.deaths - 1)
        for box in state.boxes:
            if box.state == RUNNING:
                what = ("it dies:", box.id)
                if self.laws.auto_remove:
                    check_removal(self.documents[state.document], box, what)
                    yield Move(what, False, _with(state, box, None)._replace(left=left))
                else:
                    dead = box._replace(state=EXITED, digest="", incoming="", fence=0, hangs=False)
                    yield Move(what, False, _with(state, box, dead)._replace(left=left))
            what = ("a stranger removes", box.id)
            yield Move(what, False, _with(state, box, None)._replace(left=left))


def _id_of(request: Request) -> str:
    return f"{request.instance}.{request.attempt}.{request.number}"


def _free(boxes: tuple[Box, ...]) -> int:
    used = {box.address for box in boxes if box.state != EXITED}
    return next(each for each in range(1, len(used) + 2) if each not in used)


def _minded(state: State, others: tuple[Mind, ...], mind: Mind) -> State:
    minds = tuple(sorted((*others, mind)))
    return State(state.document, state.boxes, minds, state.under_way, state.left)


def _with(state: State, box: Box, other: Box | None) -> State:
    rest = [each for each in state.boxes if each is not box]
    if other is not None:
        rest.append(other)
    boxes = tuple(sorted(rest))
    return State(state.document, boxes, state.minds, state.under_way, state.left)
