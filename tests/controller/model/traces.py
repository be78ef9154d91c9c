"""Moves in words."""

from __future__ import annotations

from controller.deployment import Slot
from tests.controller.model.documents import Documents
from tests.controller.model.rounds import Outcome


def told(documents: Documents, what: tuple[object, ...]) -> str:
    """One line about what happened."""
    match what:
        case ("a controller", read, int(number), Outcome() as outcome):
            slots = ", ".join(_slot(slot) for slot in documents[number].slots)
            decided = f"is about to {outcome.request}"
            if outcome.request is None:
                decided = f"is about to write: {outcome.cause}" if outcome.cause else "rests"
            return f"a controller {read} [{slots}], looks, {decided}"
        case ("a controller writes", index, Slot() as before, Slot() as after):
            return f"a controller writes slot {index}: {_slot(before)} -> {_slot(after)}"
        case _:
            return " ".join(map(str, what))


def _slot(slot: Slot) -> str:
    return f"{slot.phase.value} {slot.attempt}"
