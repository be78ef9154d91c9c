"""What is known of every predictor, and what follows for the ensemble. Pure; no network.

Predictors are told apart by class and address. Each link reports what it sees of its predictor;
the roster decides whether the models fit together and what the ensemble's metadata is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
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
    ensemble_class_labels: tuple[str, ...] = ()


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
        names: Collection[Endpoint] = (),
        ensemble: str = "",
        follows: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`endpoints` are there for good; the order of their classes is the metadata order. Those
        among them that are in `names` stand for addresses that come and go (`set_resolved`).
        `ensemble`, if given, is the one that every model must be of. With `follows`, further
        endpoints come and go (`set_watched`), and the classes that the models tell of their
        ensemble are asked for even if no predictor of theirs was ever seen. `on_change` is called
        after every change."""
        self._clock = clock
        self._ensemble = ensemble
        self.follows = follows
        """Whether endpoints, and with them classes, may come that nobody has named yet."""
        self._on_change = on_change
        self._static = tuple(endpoints)
        self._watched: tuple[Endpoint, ...] = ()
        self.names = frozenset(names)
        """The static endpoints that must be looked up."""
        self._resolved: dict[Endpoint, tuple[Endpoint, ...]] = dict.fromkeys(self.names, ())
        self._positions: dict[str, int] = {}
        self._entries: dict[Endpoint, Entry] = {}
        self._hopeful: set[str] = set()
        self._addresses: dict[str, str] = {}
        self.class_labels: tuple[str, ...] = ()
        """All classes in metadata order. A class that was known once is never forgotten: leaving it
        out would turn the label into a guess."""
        self._arrange()
        self.metadata: Metadata | None = None
        """What the ensemble expects, as far as it was ever known; None before the first contact."""

    def set_watched(self, places: Mapping[Endpoint, int]) -> None:
        """Put these endpoints in the place of those watched before; each with the place of its
        class in the ensemble's order. Static ones stay."""
        for endpoint, position in places.items():
            self._positions[endpoint.class_label] = position
        self._watched = tuple(places)
        self._arrange()
        self._on_change()

    def set_resolved(self, name: Endpoint, addresses: Sequence[str]) -> None:
        """Put the predictors at these addresses in the place of those before that the name stood
        for; without any, the name stands there itself and is not linked to."""
        found = tuple(Endpoint(name.class_label, address) for address in addresses)
        self._resolved[name] = found
        self._arrange()
        self._on_change()

    def resolved(self, name: Endpoint) -> tuple[Endpoint, ...]:
        """The predictors that a name stands for, as far as that is known."""
        return self._resolved[name]

    def _arrange(self) -> None:
        """Make the entries those of all endpoints that there are now, in order."""
        static = [each for one in self._static for each in self._resolved.get(one) or (one,)]
        endpoints = (*static, *self._watched)
        first = dict.fromkeys(each.class_label for each in self._static)
        others = sorted(self._positions, key=lambda label: (self._positions[label], label))
        self.class_labels = tuple(dict.fromkeys((*first, *others)))
        place = {label: position for position, label in enumerate(self.class_labels)}
        ordered = sorted(dict.fromkeys(endpoints), key=lambda each: place[each.class_label])
        self._entries = {
            endpoint: self._entries.get(endpoint)
            or Entry(endpoint, State.CONNECTING, self._clock.now(), self._not_yet(endpoint))
            for endpoint in ordered
        }
        self._hopeful = self._labels_in(State.READY, State.CONNECTING)
        self._addresses = {
            label: ", ".join(each.endpoint.address for each in self.of(label)) or "no known address"
            for label in self.class_labels
        }

    def _not_yet(self, endpoint: Endpoint) -> str:
        return "not looked up yet" if endpoint in self.names else "not reached yet"

    @property
    def linked(self) -> set[Endpoint]:
        """Every predictor that there is a way to: all but names that stand for nothing yet."""
        return self._entries.keys() - self.names

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every predictor, in the order of the classes, then of the configuration."""
        return tuple(self._entries.values())

    def of(self, class_label: str) -> list[Entry]:
        """The predictors of one class."""
        return [each for each in self.entries if each.endpoint.class_label == class_label]

    def state_of(self, endpoint: Endpoint) -> State | None:
        """The state of that predictor; None if it is not known (any more)."""
        entry = self._entries.get(endpoint)
        return None if entry is None else entry.state

    def is_ready(self, endpoint: Endpoint) -> bool:
        """Whether that predictor may be asked; one that is not known (any more) may not."""
        return self.state_of(endpoint) is State.READY

    def knows(self, endpoint: Endpoint) -> bool:
        """Whether that predictor is (still) among those known."""
        return endpoint in self._entries

    def all_ready(self) -> bool:
        """Whether every class has a predictor that may be asked, and there is any class."""
        return bool(self.class_labels) and self._labels_in(State.READY) == set(self.class_labels)

    def has_hope(self, class_label: str) -> bool:
        """Whether a request for the class may be answered soon: a predictor is ready, or is being
        reached and has not failed since."""
        return class_label in self._hopeful

    def addresses(self, class_label: str) -> str:
        """The addresses of a class's predictors, joined by commas."""
        return self._addresses[class_label]

    def why_not(self, class_label: str) -> str:
        """What is wrong with a class's predictors."""
        details = dict.fromkeys(each.detail for each in self.of(class_label) if each.detail)
        return "; ".join(details) or "there is no predictor"

    def connecting(self, endpoint: Endpoint, detail: str) -> None:
        """The predictor is being reached anew, for a harmless reason."""
        if self.knows(endpoint):
            self._update(replace(self._entries[endpoint], state=State.CONNECTING, detail=detail))

    def lost(self, endpoint: Endpoint, detail: str) -> bool:
        """The predictor cannot be asked; answers whether that is news."""
        if not self.knows(endpoint):
            return False
        entry = replace(self._entries[endpoint], state=State.UNAVAILABLE, detail=detail)
        return self._update(entry)

    def reached(self, endpoint: Endpoint, described: Described) -> None:
        """The predictor answered and has a model; READY or MISMATCHED follows for it and may
        follow for others."""
        if not self.knows(endpoint):
            return
        entry = replace(self._entries[endpoint], state=State.READY, described=described)
        after = self._entries | {endpoint: entry}
        in_contact = [each for each in after.values() if each.state in _IN_CONTACT]
        self.metadata = self._agreed([each.described for each in in_contact if each.described])
        self._update(*(self._judged(each) for each in in_contact))
        if self.follows and self.is_ready(endpoint):
            self._learn_classes(described)

    def _learn_classes(self, described: Described) -> None:
        """Know of every class of the ensemble, whether or not it has a predictor."""
        new = {
            label: position
            for position, label in enumerate(described.ensemble_class_labels)
            if label not in self.class_labels
        }
        if new:
            self._positions |= new
            self._arrange()
            self._on_change()

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
        ensemble = self._ensemble or most_common(model.ensemble for model in models) or ""
        fitting = [m for m in models if m.feature_count == count and m.ensemble in ("", ensemble)]
        names = most_common(model.feature_names for model in fitting) or ()
        samples = (m.sample for m in fitting if m.sample and m.feature_names in ((), names))
        return Metadata(
            ensemble=ensemble,
            feature_count=count,
            feature_names=names,
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
