"""Documents and slots as small numbers, without what makes no difference to `step`.

Times are only told apart as far as limits do: something is just begun, due, or has taken too long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.deployment import Deployment, Slot, Spec, Target

BEGUN = datetime(2024, 1, 1, tzinfo=UTC)
RETRY = BEGUN + timedelta(seconds=10)
DUE = BEGUN + timedelta(seconds=30)
"""Pauses and drains are over, nothing else."""
OVERDUE = BEGUN + timedelta(seconds=1000)
"""Everything has taken longer than its limit."""


class Documents:
    """Every document and slot that was met so far."""

    def __init__(self) -> None:
        self._documents: list[Deployment] = []
        self._orders: list[Collection[int]] = []
        self._numbers: dict[Deployment, int] = {}
        self._slots: list[Slot] = []
        self._slot_numbers: dict[Slot, int] = {}
        # What was worked out before; states share documents, so nearly everything was.
        self._written: dict[tuple[int, int, int], int] = {}
        self._reordered: dict[tuple[int, tuple[int, ...]], int] = {}
        self._reordered_slots: dict[tuple[int, int], int] = {}
        self._with_specs: dict[tuple[int, Target, str], int] = {}

    def __getitem__(self, number: int) -> Deployment:
        return self._documents[number]

    def __len__(self) -> int:
        return len(self._documents)

    def slot(self, number: int) -> Slot:
        """The slot of that number."""
        return self._slots[number]

    def add(self, document: Deployment) -> int:
        """The number of a document."""
        slots = tuple(_plain(slot, document.spec) for slot in document.slots)
        document = replace(document, spec=replace(document.spec, generation=1), slots=slots)
        number = self._numbers.setdefault(document, len(self._documents))
        if number == len(self._documents):
            self._documents.append(document)
            self._orders.append({slot.order for slot in slots})
        return number

    def add_slot(self, slot: Slot, spec: Spec) -> int:
        """The number of a slot of a document with that spec."""
        return self._numbered(_plain(slot, spec))

    def written(self, document: int, index: int, slot: int) -> int:
        """The number of the document with another slot at `index`."""
        key = document, index, slot
        if (found := self._written.get(key)) is None:
            found = self.add(self[document].with_slot(index, self.slot(slot)))
            self._written[key] = found
        return found

    def wished(self, document: int, target: Target, digest: str) -> int:
        """The number of the document with another wish of its caller."""
        key = document, target, digest
        if (found := self._with_specs.get(key)) is None:
            before = self[document]
            generation = before.spec.generation + 1
            spec = replace(before.spec, target=target, digest=digest, generation=generation)
            found = self._with_specs[key] = self.add(replace(before, spec=spec))
        return found

    def orders(self, document: int) -> Collection[int]:
        """The orders of the document's slots."""
        return self._orders[document]

    def reordered(self, document: int, orders: Mapping[int, int]) -> int:
        """The number of the document with other orders for those that it has."""
        before = self[document]
        key = document, tuple([orders[slot.order] for slot in before.slots])
        if (found := self._reordered.get(key)) is None:
            slots = tuple(replace(slot, order=orders[slot.order]) for slot in before.slots)
            found = self._reordered[key] = self.add(replace(before, slots=slots))
        return found

    def reordered_slot(self, slot: int, orders: Mapping[int, int]) -> int:
        """The number of the slot with another order for the one that it has."""
        before = self.slot(slot)
        key = slot, orders[before.order]
        if (found := self._reordered_slots.get(key)) is None:
            found = self._numbered(replace(before, order=orders[before.order]))
            self._reordered_slots[key] = found
        return found

    def _numbered(self, slot: Slot) -> int:
        number = self._slot_numbers.setdefault(slot, len(self._slots))
        if number == len(self._slots):
            self._slots.append(slot)
        return number


def _plain(slot: Slot, spec: Spec) -> Slot:
    """Generations matter only by being equal, times only by being over, words not at all."""
    same = slot.generation == spec.generation
    return replace(
        slot,
        since=BEGUN,
        retry_time=None if slot.retry_time is None else RETRY,
        generation=1 if same else 0,
        failures=slot.failures if same else 0,
        reason="",
        log_tail="",
    )
