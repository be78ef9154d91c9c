"""All that a rule of the life cycle looks at, and the changes that it may ask for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypedDict, Unpack

from ..seen import Seen, SeenContainer
from .actions import Change, Rest, entering
from .document import Instance, InstancePhase, Spec, Target


class InstanceChanges(TypedDict, total=False):
    """Fields of an instance that a change sets besides its phase."""

    attempt: int
    container_id: str
    address: str
    digest: str
    incoming: str
    refused: str
    failures: int
    generation: int
    retry_time: datetime | None
    reason: str
    log_tail: str
    order: int


@dataclass(frozen=True, slots=True)
class View:
    """All that a rule looks at."""

    spec: Spec
    instances: Sequence[Instance]
    index: int
    instance: Instance
    want: Target
    seen: Seen
    now: datetime

    @property
    def container(self) -> SeenContainer | None:
        """The container of the current attempt, if it was seen.

        A request to create that was carried out late can have made another one after it was gone;
        that is not the one that the endpoint belongs to.
        """
        for each in self.seen.containers or ():
            if each.attempt == self.instance.attempt and self.instance.container_id in (
                "",
                each.id,
            ):
                return each
        return None

    def enter(self, phase: InstancePhase, cause: str, **changes: Unpack[InstanceChanges]) -> Change:
        return entering(replace(self.instance, **changes), phase, self.now, cause)

    def ordered(
        self, phase: InstancePhase, cause: str, **changes: Unpack[InstanceChanges]
    ) -> Change:
        """Enter a phase in which the predictor is given an order: later than every other one of
        the deployment, and than the predictor's own fence."""
        last = max(instance.order for instance in self.instances)
        fence = 0 if self.seen.predictor is None else self.seen.predictor.fence
        changes["order"] = max(last, fence) + 1
        return self.enter(phase, cause, **changes)

    def has_carried_out(self) -> bool:
        """Whether the predictor has carried out the instance's last order, so that no earlier one
        can have an effect any more, and does nothing else at the moment."""
        predictor = self.seen.predictor
        return (
            predictor is not None and not predictor.busy and predictor.fence >= self.instance.order
        )

    def is_overtaken(self) -> bool:
        """Whether the predictor would refuse the instance's last order: it was given later ones,
        which the document knows nothing of."""
        predictor = self.seen.predictor
        return predictor is not None and predictor.fence > self.instance.order

    def renumbered(self) -> Change:
        """The same order as a later one. The time that it may take begins where it began."""
        change = self.ordered(self.instance.phase, "its predictor has been given later orders")
        return replace(change, instance=replace(change.instance, since=self.instance.since))

    def since(self) -> float:
        """Seconds in this phase."""
        return (self.now - self.instance.since).total_seconds() if self.instance.since else 0.0

    def in_s(self, seconds: float) -> Rest:
        return Rest(self.now + timedelta(seconds=seconds))
