"""What is promised of every state: what never happens, and what is reached in the end."""

from __future__ import annotations

from controller.deployment import PUBLISHED, Deployment, Phase, Slot, Target, wanted
from tests.controller.model.laws import Bounds
from tests.controller.model.rounds import KEEPS
from tests.controller.model.values import (
    EXITED,
    IDLE,
    RUNNING,
    Box,
    Mind,
    Request,
    State,
    Violation,
)


def check_state(document: Deployment, state: State, bounds: Bounds) -> None:
    """What holds in every state."""
    for index, slot in enumerate(document.slots):
        current = [b for b in state.boxes if b.slot == index and b.attempt == slot.attempt]
        if len(current) > 1:
            raise Violation(f"two containers of attempt {slot.attempt}")
        named = slot.container_id.startswith(f"{index}.{slot.attempt}.")
        if slot.phase in PUBLISHED and not named:
            raise Violation("an endpoint is published for another attempt's container")
    if sum(slot.phase is Phase.REPLACING for slot in document.slots) > 1:
        raise Violation("two replicas are replaced at once")
    if bounds.serving and not bounds.deaths and bounds.targets == (Target.LOADED,):
        _check_service(document, state)


def _check_service(document: Deployment, state: State) -> None:
    """With replicas that nobody unloads and that never die, one always answers."""
    for slot in document.slots:
        box = answering(state, int(slot.address[1:] or 0))
        if slot.phase in PUBLISHED and box is not None and box.digest:
            return
    raise Violation("no replica serves")


def check_removal(document: Deployment, box: Box, what: tuple[object, ...]) -> None:
    """A container goes only after its attempt was given up in writing."""
    slot = document.slots[box.slot]
    if box.attempt == slot.attempt and slot.phase in KEEPS:
        kind = "alive" if box.state != EXITED else "with its log unread"
        problem = f"container {box.id} of the attempt that is kept is removed, {kind}"
        raise Violation(problem, what)


def check_order(
    document: Deployment, box: Box, request: Request, bounds: Bounds, what: tuple[object, ...]
) -> None:
    """What serves goes on serving until a later order was written.

    The order of a replacement that was given up for taking too long stands, and may not have
    overtaken those before it yet.
    """
    for slot in document.slots:
        serves = slot.phase is Phase.SERVING and slot.container_id == box.id
        given_up = (bounds.overruns or bounds.hangs) and box.fence < slot.order
        if serves and request.order < slot.order and not given_up:
            problem = f"container {box.id} serves by order {slot.order} and obeys an earlier one"
            raise Violation(problem, what)


def check_write(
    document: Deployment, state: State, mind: Mind, after: Slot, what: tuple[object, ...]
) -> None:
    """An attempt is given up only if its container ended, hung, took too long or is not wanted."""
    before = document.slots[mind.place]
    gives_up = before.phase in KEEPS and after.phase not in KEEPS
    if not gives_up or mind.flag or wanted(document.spec, mind.place) is Target.ABSENT:
        return
    for box in state.boxes:
        if box.id == before.container_id and box.state != EXITED:
            problem = f"container {box.id} is given up, but it is well and wanted"
            raise Violation(problem, what)


def is_done(document: Deployment, state: State, bounds: Bounds) -> bool:
    """Whether what is wanted is there, and nothing else, and nothing is under way."""
    if state.under_way or any(mind.does != IDLE for mind in state.minds):
        return False
    return all(
        _is_reached(document, index, [box for box in state.boxes if box.slot == index], bounds)
        for index in range(len(document.slots))
    )


def _is_reached(document: Deployment, index: int, boxes: list[Box], bounds: Bounds) -> bool:
    slot, digest = document.slots[index], document.spec.digest
    want = wanted(document.spec, index)
    if want is Target.ABSENT:
        return slot.phase is Phase.ABSENT and not boxes
    is_refused = digest == bounds.refused
    if slot.phase is Phase.FAILED:
        over = slot.failures > bounds.max_failures or is_refused
        return over and slot.generation == document.spec.generation and not boxes
    if len(boxes) != 1:
        return False
    box = boxes[0]
    here = box.id == slot.container_id and f"a{box.address}" == slot.address
    busy = box.incoming or box.hangs
    if box.attempt != slot.attempt or box.state != RUNNING or busy or not here:
        return False
    if want is Target.CREATED:
        return slot.phase is Phase.IDLE and not box.digest
    right = box.digest == slot.digest and (is_refused or slot.digest == digest)
    return slot.phase is Phase.SERVING and right


def answering(state: State, address: int) -> Box | None:
    """The container whose predictor answers at an address."""
    for box in state.boxes:
        if box.address == address and box.state == RUNNING and not box.hangs:
            return box
    return None
