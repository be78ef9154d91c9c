"""Moves in words."""

from __future__ import annotations

from controller.deployments.document import Instance
from tests.controller.model.documents import Documents
from tests.controller.model.rounds import Outcome


def told(documents: Documents, what: tuple[object, ...]) -> str:
    """One line about what happened."""
    match what:
        case ("a controller", read, int(number), Outcome() as outcome):
            instances = ", ".join(_instance(instance) for instance in documents[number].instances)
            decided = f"is about to {outcome.request}"
            if outcome.request is None:
                decided = f"is about to write: {outcome.cause}" if outcome.cause else "rests"
            return f"a controller {read} [{instances}], looks, {decided}"
        case ("a controller writes", index, Instance() as before, Instance() as after):
            return (
                f"a controller writes instance {index}: {_instance(before)} -> {_instance(after)}"
            )
        case _:
            return " ".join(map(str, what))


def _instance(instance: Instance) -> str:
    return f"{instance.phase.value} {instance.attempt}"
