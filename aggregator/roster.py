"""What is known of every predictor, and what follows for the ensemble. Pure; no network.

Predictors are told apart by class and address. Each link reports what it sees of its predictor;
the roster decides whether the models fit together and what the ensemble's metadata is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TypeVar

from trillium.clock import Clock

T = TypeVar("T", bound=Hashable)


class State(Enum):
    """State of the way to one predictor."""

    CONNECTING = "connecting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    MISMATCHED = "mismatched"


_IN_CONTACT = (State.READY, State.MISMATCHED)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a class's predictor is."""

    class_label: str
    address: str


@dataclass(frozen=True, slots=True)
class Described:
    """What a predictor says of its model. Empty means that it does not say."""

    digest: str
    class_label: str
    feature_count: int
    ensemble: str = ""
    feature_names: tuple[str, ...] = ()
    sample: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the ensemble expects."""

    ensemble: str
    feature_count: int
    feature_names: tuple[str, ...]
    sample: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One predictor as it is seen now."""

    endpoint: Endpoint
    state: State
    since: datetime
    detail: str = ""
    described: Described | None = None


class Roster:
    """Every predictor that the aggregator knows."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clock: Clock,
        ensemble: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """The order of classes in `endpoints` is the metadata order. `ensemble`, if given, is the
        one that every model must be of. `on_change` is called after every change."""
        self._clock = clock
        self._ensemble = ensemble
        self._on_change = on_change
        self.class_labels = tuple(dict.fromkeys(each.class_label for each in endpoints))
        """All classes in metadata order."""
        place = {label: position for position, label in enumerate(self.class_labels)}
        ordered = sorted(endpoints, key=lambda each: place[each.class_label])
        self._entries = {
            endpoint: Entry(endpoint, State.CONNECTING, clock.now(), "not reached yet")
            for endpoint in ordered
        }
        self._hopeful = set(self.class_labels)
        self.metadata: Metadata | None = None
        """What the ensemble expects, as far as it was ever known; None before the first contact."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every predictor, in the order of the classes, then of the configuration."""
        return tuple(self._entries.values())

    def of(self, class_label: str) -> list[Entry]:
        """The predictors of one class."""
        return [each for each in self.entries if each.endpoint.class_label == class_label]

    def is_ready(self, endpoint: Endpoint) -> bool:
        """Whether that predictor may be asked."""
        return self._entries[endpoint].state is State.READY

    def all_ready(self) -> bool:
        """Whether every class has a predictor that may be asked."""
        return self._labels_in(State.READY) == set(self.class_labels)

    def has_hope(self, class_label: str) -> bool:
        """Whether a request for the class may be answered soon: a predictor is ready, or is being
        reached and has not failed since."""
        return class_label in self._hopeful

    def why_not(self, class_label: str) -> tuple[str, str]:
        """The addresses of a class's predictors, and what is wrong with them."""
        entries = self.of(class_label)
        details = dict.fromkeys(each.detail for each in entries if each.detail)
        addresses = ", ".join(each.endpoint.address for each in entries)
        return addresses, "; ".join(details) or "not reached"

    def connecting(self, endpoint: Endpoint, detail: str) -> None:
        """The predictor is being reached anew, for a harmless reason."""
        self._update(replace(self._entries[endpoint], state=State.CONNECTING, detail=detail))

    def lost(self, endpoint: Endpoint, detail: str) -> bool:
        """The predictor cannot be asked; answers whether that is news."""
        return self._update(
            replace(self._entries[endpoint], state=State.UNAVAILABLE, detail=detail)
        )

    def reached(self, endpoint: Endpoint, described: Described) -> None:
        """The predictor answered and has a model; READY or MISMATCHED follows for it and may
        follow for others."""
        entry = replace(self._entries[endpoint], state=State.READY, described=described)
        after = self._entries | {endpoint: entry}
        in_contact = [each for each in after.values() if each.state in _IN_CONTACT]
        self.metadata = self._agreed([each.described for each in in_contact if each.described])
        self._update(*(self._judged(each) for each in in_contact))

    def _update(self, *entries: Entry) -> bool:
        before = dict(self._entries)
        for entry in entries:
            old = before[entry.endpoint]
            since = old.since if old.state is entry.state else self._clock.now()
            self._entries[entry.endpoint] = replace(entry, since=since)
        self._hopeful = self._labels_in(State.READY, State.CONNECTING)
        changed = self._entries != before
        if changed:
            self._on_change()
        return changed

    def _labels_in(self, *states: State) -> set[str]:
        return {each.endpoint.class_label for each in self.entries if each.state in states}

    def _agreed(self, models: Sequence[Described]) -> Metadata:
        """What most of the reached models say; ties go to the first in order."""
        count = most_common(model.feature_count for model in models) or 0
        names = most_common(m.feature_names for m in models if m.feature_count == count)
        samples = (m.sample for m in models if m.sample and m.feature_count == count)
        return Metadata(
            ensemble=self._ensemble or most_common(model.ensemble for model in models) or "",
            feature_count=count,
            feature_names=names or (),
            sample=next(samples, ()),
        )

    def _judged(self, entry: Entry) -> Entry:
        wrong = self._misfit(entry)
        state = State.MISMATCHED if wrong else State.READY
        return replace(entry, state=state, detail=wrong)

    def _misfit(self, entry: Entry) -> str:
        """Why a reached predictor's model does not fit; empty if it does."""
        model, wanted = entry.described, self.metadata
        if model is None or wanted is None:
            return "has not said what its model is"
        if model.class_label != entry.endpoint.class_label:
            return f"its model recognises {model.class_label!r}, not {entry.endpoint.class_label!r}"
        if model.ensemble and wanted.ensemble and model.ensemble != wanted.ensemble:
            return f"its model is of ensemble {model.ensemble!r}, not {wanted.ensemble!r}"
        if model.feature_count != wanted.feature_count:
            return f"its model takes {model.feature_count} features, not {wanted.feature_count}"
        if (
            model.feature_names
            and wanted.feature_names
            and model.feature_names != wanted.feature_names
        ):
            return "its model has features of other names or in another order"
        return ""


def most_common(values: Iterable[T]) -> T | None:
    """The value that comes most often, the earlier one of two; empty values do not count."""
    counted = Counter(value for value in values if value)
    return max(counted, key=lambda value: counted[value]) if counted else None
