"""Orders as small numbers: only which one is higher makes a difference.

Without this, worlds that differ only in how often something was ordered before would be searched
one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.controller.model.documents import Documents
from tests.controller.model.values import (
    ASKS,
    EXITED,
    HAS_READ,
    WRITES,
    Box,
    Mind,
    Request,
    State,
)

_ORDERS = ("load", "unload")


def with_small_orders(documents: Documents, state: State) -> State:
    """The same world, whose orders are 0, 1, 2 and so on without a gap."""
    orders = _orders(documents, state)
    if len(orders) == max(orders) + 1:
        return state
    small = {order: place for place, order in enumerate(sorted(orders))}
    return state._replace(
        document=documents.reordered(state.document, small),
        boxes=_boxes(state.boxes, small),
        minds=tuple(sorted(_mind(documents, mind, small) for mind in state.minds)),
        under_way=tuple(sorted(_request(request, small) for request in state.under_way)),
    )


def _orders(documents: Documents, state: State) -> set[int]:
    """Every order that may be compared with another one."""
    orders = set(documents.orders(state.document))
    for mind in state.minds:
        if mind.does == HAS_READ:
            orders.update(documents.orders(mind.document))
        elif mind.does == WRITES:
            orders.add(documents.instance(mind.instance).order)
        elif mind.does == ASKS and mind.request.verb in _ORDERS:
            orders.add(mind.request.order)
        for box in mind.boxes:
            if box.state != EXITED:
                orders.add(box.fence)
    for box in state.boxes:
        if box.state != EXITED:
            orders.add(box.fence)
    for request in state.under_way:
        if request.verb in _ORDERS:
            orders.add(request.order)
    return orders


def _mind(documents: Documents, mind: Mind, small: Mapping[int, int]) -> Mind:
    mind = mind._replace(boxes=_boxes(mind.boxes, small))
    if mind.does == HAS_READ:
        return mind._replace(document=documents.reordered(mind.document, small))
    if mind.does == WRITES:
        return mind._replace(instance=documents.reordered_instance(mind.instance, small))
    return mind._replace(request=_request(mind.request, small))


def _boxes(boxes: tuple[Box, ...], small: Mapping[int, int]) -> tuple[Box, ...]:
    # What has exited obeys no order any more, so its fence is 0.
    return tuple(sorted([box._replace(fence=small.get(box.fence, 0)) for box in boxes]))


def _request(request: Request, small: Mapping[int, int]) -> Request:
    if request.verb not in _ORDERS:
        return request
    return request._replace(order=small[request.order])
