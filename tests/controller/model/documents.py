"""Documents and instances as small numbers, without what makes no difference to `step`.

Times are only told apart as far as limits do: something is just begun, due, or has taken too long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.deployments.document import Deployment, Instance, Spec, Target

BEGUN = datetime(2024, 1, 1, tzinfo=UTC)
RETRY = BEGUN + timedelta(seconds=10)
DUE = BEGUN + timedelta(seconds=30)
"""Pauses and drains are over, nothing else."""
OVERDUE = BEGUN + timedelta(seconds=1000)
"""Everything has taken longer than its limit."""


class Documents:
    """Every document and instance that was met so far."""

    def __init__(self) -> None:
        self._documents: list[Deployment] = []
        self._orders: list[Collection[int]] = []
        self._numbers: dict[Deployment, int] = {}
        self._instances: list[Instance] = []
        self._instance_numbers: dict[Instance, int] = {}
        # What was worked out before; states share documents, so nearly everything was.
        self._written: dict[tuple[int, int, int], int] = {}
        self._reordered: dict[tuple[int, tuple[int, ...]], int] = {}
        self._reordered_instances: dict[tuple[int, int], int] = {}
        self._with_specs: dict[tuple[int, Target, str, int], int] = {}

    def __getitem__(self, number: int) -> Deployment:
        return self._documents[number]

    def __len__(self) -> int:
        return len(self._documents)

    def instance(self, number: int) -> Instance:
        """The instance of that number."""
        return self._instances[number]

    def add(self, document: Deployment) -> int:
        """The number of a document."""
        instances = tuple(_plain(instance, document.spec) for instance in document.instances)
        document = replace(document, spec=replace(document.spec, generation=1), instances=instances)
        number = self._numbers.setdefault(document, len(self._documents))
        if number == len(self._documents):
            self._documents.append(document)
            self._orders.append({instance.order for instance in instances})
        return number

    def add_instance(self, instance: Instance, spec: Spec) -> int:
        """The number of an instance of a document with that spec."""
        return self._numbered(_plain(instance, spec))

    def written(self, document: int, index: int, instance: int) -> int:
        """The number of the document with another instance at `index`."""
        key = document, index, instance
        if (found := self._written.get(key)) is None:
            found = self.add(self[document].with_instance(index, self.instance(instance)))
            self._written[key] = found
        return found

    def wished(self, document: int, target: Target, digest: str, replicas: int) -> int:
        """The number of the document with another command of its caller."""
        key = document, target, digest, replicas
        if (found := self._with_specs.get(key)) is None:
            before = self[document]
            generation = before.spec.generation + 1
            spec = replace(
                before.spec,
                target=target,
                digest=digest,
                replicas=replicas,
                generation=generation,
            )
            found = self._with_specs[key] = self.add(replace(before, spec=spec))
        return found

    def orders(self, document: int) -> Collection[int]:
        """The orders of the document's instances."""
        return self._orders[document]

    def reordered(self, document: int, orders: Mapping[int, int]) -> int:
        """The number of the document with other orders for those that it has."""
        before = self[document]
        key = document, tuple([orders[instance.order] for instance in before.instances])
        if (found := self._reordered.get(key)) is None:
            instances = tuple(
                replace(instance, order=orders[instance.order]) for instance in before.instances
            )
            found = self._reordered[key] = self.add(replace(before, instances=instances))
        return found

    def reordered_instance(self, instance: int, orders: Mapping[int, int]) -> int:
        """The number of the instance with another order for the one that it has."""
        before = self.instance(instance)
        key = instance, orders[before.order]
        if (found := self._reordered_instances.get(key)) is None:
            found = self._numbered(replace(before, order=orders[before.order]))
            self._reordered_instances[key] = found
        return found

    def _numbered(self, instance: Instance) -> int:
        number = self._instance_numbers.setdefault(instance, len(self._instances))
        if number == len(self._instances):
            self._instances.append(instance)
        return number


def _plain(instance: Instance, spec: Spec) -> Instance:
    """Generations matter only by being equal, times only by being over, words not at all."""
    same = instance.generation == spec.generation
    return replace(
        instance,
        since=BEGUN,
        retry_time=None if instance.retry_time is None else RETRY,
        generation=1 if same else 0,
        failures=instance.failures if same else 0,
        reason="",
        log_tail="",
    )
