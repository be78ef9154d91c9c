"""What is promised of every state: what never happens, and what is reached in the end."""

from __future__ import annotations

from controller.deployments.document import (
    PUBLISHED,
    Deployment,
    Instance,
    InstancePhase,
    Target,
    wanted,
)
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
    for index, instance in enumerate(document.instances):
        current = [b for b in state.boxes if b.instance == index and b.attempt == instance.attempt]
        if len(current) > 1:
            raise Violation(f"two containers of attempt {instance.attempt}")
        named = instance.container_id.startswith(f"{index}.{instance.attempt}.")
        if instance.phase in PUBLISHED and not named:
            raise Violation("an endpoint is published for another attempt's container")
    if sum(instance.phase is InstancePhase.REPLACING for instance in document.instances) > 1:
        raise Violation("two replicas are replaced at once")
    if bounds.serving and not bounds.deaths and bounds.targets == (Target.LOADED,):
        _check_service(document, state)


def _check_service(document: Deployment, state: State) -> None:
    """With replicas that nobody unloads and that never die, one always answers."""
    for instance in document.instances:
        box = answering(state, int(instance.address[1:] or 0))
        if instance.phase in PUBLISHED and box is not None and box.digest:
            return
    raise Violation("no replica serves")


def check_removal(document: Deployment, box: Box, what: tuple[object, ...]) -> None:
    """A container goes only after its attempt was given up in writing."""
    instance = document.instances[box.instance]
    if box.attempt == instance.attempt and instance.phase in KEEPS:
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
    for instance in document.instances:
        serves = instance.phase is InstancePhase.SERVING and instance.container_id == box.id
        given_up = (bounds.overruns or bounds.hangs) and box.fence < instance.order
        if serves and request.order < instance.order and not given_up:
            problem = (
                f"container {box.id} serves by order {instance.order} and obeys an earlier one"
            )
            raise Violation(problem, what)


def check_write(
    document: Deployment, state: State, mind: Mind, after: Instance, what: tuple[object, ...]
) -> None:
    """An attempt is given up only if its container ended, hung, took too long or is not wanted."""
    before = document.instances[mind.place]
    spec = document.spec
    leaves = before.phase is InstancePhase.SERVING and after.phase is InstancePhase.DRAINING
    if leaves and mind.place >= spec.replicas and spec.target is Target.LOADED:
        needed = document.instances[: spec.replicas]
        if all(instance.phase is not InstancePhase.SERVING for instance in needed):
            raise Violation("one too many leaves while no other one serves", what)
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
        _is_reached(document, index, [box for box in state.boxes if box.instance == index], bounds)
        for index in range(len(document.instances))
    )


def _is_reached(document: Deployment, index: int, boxes: list[Box], bounds: Bounds) -> bool:
    instance, digest = document.instances[index], document.spec.digest
    want = wanted(document.spec, index)
    if want is Target.ABSENT:
        return instance.phase is InstancePhase.ABSENT and not boxes
    is_refused = digest == bounds.refused
    if instance.phase is InstancePhase.FAILED:
        return is_refused and instance.generation == document.spec.generation and not boxes
    if len(boxes) != 1:
        return False
    box = boxes[0]
    here = box.id == instance.container_id and f"a{box.address}" == instance.address
    busy = box.incoming or box.hangs
    if box.attempt != instance.attempt or box.state != RUNNING or busy or not here:
        return False
    if want is Target.CREATED:
        return instance.phase is InstancePhase.IDLE and not box.digest
    right = box.digest == instance.digest and (is_refused or instance.digest == digest)
    return instance.phase is InstancePhase.SERVING and right


def answering(state: State, address: int) -> Box | None:
    """The container whose predictor answers at an address."""
    for box in state.boxes:
        if box.address == address and box.state == RUNNING and not box.hangs:
            return box
    return None
