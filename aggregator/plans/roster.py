"""What is known of every predictor, and what follows for the ensemble. Pure; no network.

A predictor is identified by its class and address. Each link reports the state of its predictor;
the roster derives whether the models fit together and what the ensemble's metadata is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from trillium.clock import Clock
from trillium.model.description import ModelDescription

from .agreement import EnsembleMetadata, agreed, is_vote_for, misfit


class LinkState(Enum):
    """State of the way to one predictor."""

    CONNECTING = "connecting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    MISMATCHED = "mismatched"


_IN_CONTACT = (LinkState.READY, LinkState.MISMATCHED)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a predictor of a class."""

    class_label: str
    address: str


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One predictor, and the state of the way to it."""

    endpoint: Endpoint
    state: LinkState
    since: datetime
    detail: str = ""
    described: ModelDescription | None = None


class Roster:
    """Every predictor that the aggregator knows."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clock: Clock,
        names: Collection[Endpoint] = (),
        ensemble: str = "",
        classes: Mapping[str, str] | None = None,
        follows: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`endpoints` are permanent; the order of their classes is the metadata order. Those in
        `names` are host names, whose addresses change (`set_resolved`). `ensemble`, if given, is
        the one that every model must belong to. `classes`, if given, are those of a revision, in
        order and each with the digest of its model: a predictor that serves another model does not
        fit, whatever that declares. With `follows`, further endpoints come and go
        (`set_watched`), and every class that a model lists for its ensemble is asked, even if no
        predictor of it was ever seen. `on_change` is called after every change."""
        self._clock = clock
        self._ensemble = ensemble
        self.follows = follows
        """Whether endpoints, and with them classes, may be added later."""
        self._on_change = on_change
        self._static = tuple(endpoints)
        self._watched: tuple[Endpoint, ...] = ()
        self.names = frozenset(names)
        """The static endpoints that are host names."""
        self._resolved: dict[Endpoint, tuple[Endpoint, ...]] = dict.fromkeys(self.names, ())
        self._digests = classes or {}
        self._positions = {label: position for position, label in enumerate(self._digests)}
        self._entries: dict[Endpoint, RosterEntry] = {}
        self._of_class: dict[str, tuple[Endpoint, ...]] = {}
        self._votes_left = False
        """Whether a predictor that was in contact no longer is since the metadata was agreed."""
        self._hopeful: set[str] = set()
        self._addresses: dict[str, str] = {}
        self.class_labels: tuple[str, ...] = ()
        """All classes in metadata order. A class is never forgotten: leaving it out would turn the
        label into a guess."""
        self._arrange()
        self.metadata: EnsembleMetadata | None = None
        """What the ensemble expects, as far as it is known; None before the first contact."""

    def set_watched(self, places: Mapping[Endpoint, int]) -> None:
        """Replace the endpoints watched before; each comes with the position of its class in the
        ensemble's order. Static ones stay."""
        for endpoint, position in places.items():
            self._positions[endpoint.class_label] = position
        self._watched = tuple(places)
        self._arrange()
        self._on_change()

    def set_resolved(self, name: Endpoint, addresses: Sequence[str]) -> None:
        """Replace the addresses of a host name; without any, the name itself is listed and has no
        link."""
        endpoints = tuple(Endpoint(name.class_label, address) for address in addresses)
        self._resolved[name] = endpoints
        self._arrange()
        self._on_change()

    def resolved(self, name: Endpoint) -> tuple[Endpoint, ...]:
        """The predictors at the addresses of a host name, as far as they are known."""
        return self._resolved[name]

    def _arrange(self) -> None:
        """Rebuild the entries: one for each current endpoint, in order."""
        static = [each for one in self._static for each in self._resolved.get(one) or (one,)]
        endpoints = (*static, *self._watched)
        first = dict.fromkeys(each.class_label for each in self._static)
        others = sorted(self._positions, key=lambda label: (self._positions[label], label))
        self.class_labels = tuple(dict.fromkeys((*first, *others)))
        place = {label: position for position, label in enumerate(self.class_labels)}
        ordered = sorted(dict.fromkeys(endpoints), key=lambda each: place[each.class_label])
        self._entries = {
            endpoint: self._entries.get(endpoint)
            or RosterEntry(
                endpoint, LinkState.CONNECTING, self._clock.now(), self._not_yet(endpoint)
            )
            for endpoint in ordered
        }
        of_class: dict[str, list[Endpoint]] = {label: [] for label in self.class_labels}
        for endpoint in self._entries:
            of_class[endpoint.class_label].append(endpoint)
        self._of_class = {label: tuple(endpoints) for label, endpoints in of_class.items()}
        self._hopeful = self._labels_in(LinkState.READY, LinkState.CONNECTING)
        self._votes_left = True
        self._addresses = {
            label: ", ".join(each.address for each in endpoints) or "no known address"
            for label, endpoints in self._of_class.items()
        }

    def _not_yet(self, endpoint: Endpoint) -> str:
        return "not looked up yet" if endpoint in self.names else "not reached yet"

    @property
    def linked(self) -> set[Endpoint]:
        """Every predictor that gets a link: all but host names without an address."""
        return self._entries.keys() - self.names

    @property
    def entries(self) -> tuple[RosterEntry, ...]:
        """Every predictor, in the order of the classes, then of the configuration."""
        return tuple(self._entries.values())

    def of(self, class_label: str) -> list[RosterEntry]:
        """The predictors of one class."""
        return [self._entries[endpoint] for endpoint in self._of_class.get(class_label, ())]

    def state_of(self, endpoint: Endpoint) -> LinkState | None:
        """The state of that predictor; None if it is not known (any more)."""
        entry = self._entries.get(endpoint)
        return None if entry is None else entry.state

    def is_ready(self, endpoint: Endpoint) -> bool:
        """Whether that predictor may be asked; one that is not known (any more) may not."""
        return self.state_of(endpoint) is LinkState.READY

    def knows(self, endpoint: Endpoint) -> bool:
        """Whether that predictor is (still) among those known."""
        return endpoint in self._entries

    def all_ready(self) -> bool:
        """Whether every class has a predictor that may be asked, and there is any class."""
        return bool(self.class_labels) and self._labels_in(LinkState.READY) == set(
            self.class_labels
        )

    def has_hope(self, class_label: str) -> bool:
        """Whether a request for the class may be answered soon: a predictor is ready, or is being
        reached and has not failed since."""
        return class_label in self._hopeful

    def addresses(self, class_label: str) -> str:
        """The addresses of a class's predictors, joined by commas."""
        return self._addresses[class_label]

    def why_not(self, class_label: str) -> str:
        """The reasons why a class's predictors cannot be asked."""
        details = dict.fromkeys(each.detail for each in self.of(class_label) if each.detail)
        return "; ".join(details) or "there is no predictor"

    def connecting(self, endpoint: Endpoint, detail: str) -> None:
        """The predictor is being reached again, for a harmless reason."""
        if self.knows(endpoint):
            self._update(
                replace(self._entries[endpoint], state=LinkState.CONNECTING, detail=detail)
            )

    def lost(self, endpoint: Endpoint, detail: str) -> bool:
        """The predictor cannot be asked; returns whether this changes anything."""
        if not self.knows(endpoint):
            return False
        entry = replace(self._entries[endpoint], state=LinkState.UNAVAILABLE, detail=detail)
        return self._update(entry)

    def reached(self, endpoint: Endpoint, described: ModelDescription) -> None:
        """The predictor answered and has a model; READY or MISMATCHED follows for it and may
        follow for others."""
        if not self.knows(endpoint):
            return
        if self._digests:
            # A revision names its models, whatever ensemble they were made for.
            described = replace(described, ensemble="")
        entry = replace(self._entries[endpoint], state=LinkState.READY, described=described)
        if self._confirms(entry):
            self._update(self._judged(entry))
        else:
            after = self._entries | {endpoint: entry}
            in_contact = [each for each in after.values() if each.state in _IN_CONTACT]
            models = [each.described for each in in_contact if each.described]
            self.metadata = agreed(models, self._ensemble)
            self._votes_left = False
            self._update(*(self._judged(each) for each in in_contact))
        if self.follows and self.is_ready(endpoint):
            self._learn_classes(described)

    def _confirms(self, entry: RosterEntry) -> bool:
        """Whether contact with a predictor changes nothing for the others: its model declares what
        was agreed on, and no vote has been lost since. So a start costs the same for each."""
        before = self._entries[entry.endpoint]
        return (
            self.metadata is not None
            and entry.described is not None
            and not self._votes_left
            and not self._wrong_model(entry)
            and before.state not in _IN_CONTACT
            and is_vote_for(entry.described, self.metadata)
        )

    def _learn_classes(self, described: ModelDescription) -> None:
        """Add every class of the ensemble, whether or not it has a predictor."""
        new = {
            label: position
            for position, label in enumerate(described.class_labels)
            if label not in self.class_labels
        }
        if new:
            self._positions |= new
            self._arrange()
            self._on_change()

    def _update(self, *entries: RosterEntry) -> bool:
        changed = False
        for entry in entries:
            old = self._entries[entry.endpoint]
            since = old.since if old.state is entry.state else self._clock.now()
            new = self._entries[entry.endpoint] = replace(entry, since=since)
            changed = changed or new != old
            self._votes_left |= old.state in _IN_CONTACT and new.state not in _IN_CONTACT
        for label in {entry.endpoint.class_label for entry in entries}:
            states = {each.state for each in self.of(label)}
            has_hope = LinkState.READY in states or LinkState.CONNECTING in states
            (self._hopeful.add if has_hope else self._hopeful.discard)(label)
        if changed:
            self._on_change()
        return changed

    def _labels_in(self, *states: LinkState) -> set[str]:
        return {each.endpoint.class_label for each in self.entries if each.state in states}

    def _wrong_model(self, entry: RosterEntry) -> str:
        """Why a predictor does not serve its revision's model; empty if it does, or may."""
        expected = self._digests.get(entry.endpoint.class_label)
        if expected is None or entry.described is None or entry.described.digest == expected:
            return ""
        return (
            f"serves the model {entry.described.digest[:12]}, not {expected[:12]} of the revision"
        )

    def _judged(self, entry: RosterEntry) -> RosterEntry:
        wrong = "has not described its model"
        if entry.described is not None and self.metadata is not None:
            wrong = self._wrong_model(entry)
            wrong = wrong or misfit(entry.described, self.metadata, entry.endpoint.class_label)
        state = LinkState.MISMATCHED if wrong else LinkState.READY
        return replace(entry, state=state, detail=wrong)
