"""Breadth-first search through everything that can happen, and backwards for what never ends."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np

from tests.controller.model.laws import Bounds, Laws
from tests.controller.model.values import Violation
from tests.controller.model.world import Move, World


class Explored(Protocol):
    """What can be searched."""

    @property
    def bounds(self) -> object:
        """What it is bounded by."""
        ...

    @property
    def documents(self) -> Sized:
        """Every document that was met so far."""
        ...

    def begin(self) -> Any:
        """The state where all paths begin; any value with a hash."""
        ...

    def moves(self, state: Any) -> Iterable[Move]:
        """Everything that can happen next. Raises Violation if something does that never may."""
        ...

    def is_done(self, state: Any) -> bool:
        """Whether what is wanted is there, and nothing else, and nothing is under way."""
        ...

    def told(self, what: tuple[object, ...]) -> str:
        """What happens, for a person."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What a search found."""

    bounds: object
    state_count: int
    move_count: int
    document_count: int
    depth: int
    """Of the state that is farthest away."""
    took_s: float
    problem: str = ""
    """What is wrong; empty if nothing is."""
    trace: Sequence[str] = ()
    """How to get there, in as few moves as possible."""

    def __str__(self) -> str:
        head = (
            f"{self.state_count} states, {self.move_count} moves, {self.document_count} documents, "
            f"depth {self.depth}, {self.took_s:.1f} s: {self.bounds}"
        )
        lines = [f"  {number:2} {line}" for number, line in enumerate(self.trace, 1)]
        return "\n".join([head, *([f"  {self.problem}:"] if self.problem else []), *lines])


def search(bounds: Bounds, laws: Laws | None = None, *, most: int = 10_000_000) -> Finding:
    """Walk every state within `bounds`; stops at the first violation, else looks for dead ends.

    Raises MemoryError after `most` states.
    """
    with patch("controller.deployments.failing.MOST_COUNTED", bounds.max_failures):
        return explore(World(bounds, laws or Laws()), most=most)


def explore(world: Explored, *, most: int = 10_000_000) -> Finding:
    """Walk every state of a world; see `search`."""
    # A sixth of the time: it walks every state again and again, and none is ever garbage.
    gc.disable()
    try:
        return _Search(world, most).run()
    finally:
        gc.enable()


class _Search:
    def __init__(self, world: Explored, most: int) -> None:
        self._world = world
        self._most = most
        begin = world.begin()
        self._numbers = {begin: 0}
        self._states = [begin]
        self._parents = array("q", [-1])
        self._depths = array("q", [0])
        self._sources, self._ends = array("q"), array("q")
        """The fair moves."""
        self._move_count = 0
        self._begun = perf_counter()

    def run(self) -> Finding:
        number = 0
        while number < len(self._states):
            try:
                self._expand(number)
            except Violation as violation:
                last = [self._world.told(violation.what)] if violation.what else []
                return self._finding(str(violation), [*self._path(number), *last])
            number += 1
        ends = self._dead_ends()
        if ends:
            return self._finding("from here, nothing leads to what is wanted", self._path(ends[0]))
        return self._finding("", ())

    def _expand(self, number: int) -> None:
        for move in self._world.moves(self._states[number]):
            self._move_count += 1
            end = self._numbers.setdefault(move.state, len(self._states))
            if end == len(self._states):
                if end >= self._most:
                    raise MemoryError(f"more than {self._most} states")
                self._states.append(move.state)
                self._parents.append(number)
                self._depths.append(self._depths[number] + 1)
            if move.is_fair:
                self._sources.append(number)
                self._ends.append(end)

    def _dead_ends(self) -> list[int]:
        """States from which no fair path leads to a state where everything is done."""
        order = np.argsort(np.asarray(self._ends), kind="stable")
        ends, sources = np.asarray(self._ends)[order], np.asarray(self._sources)[order]
        first = np.searchsorted(ends, np.arange(len(self._states) + 1))
        reached = np.fromiter(map(self._world.is_done, self._states), dtype=bool)
        frontier = np.flatnonzero(reached)
        while frontier.size:
            before = [sources[first[end] : first[end + 1]] for end in frontier]
            frontier = np.unique(np.concatenate(before))
            frontier = frontier[~reached[frontier]]
            reached[frontier] = True
        return [int(number) for number in np.flatnonzero(~reached)]

    def _path(self, number: int) -> list[str]:
        numbers = [number]
        while self._parents[numbers[-1]] >= 0:
            numbers.append(self._parents[numbers[-1]])
        lines = []
        for before, after in zip(reversed(numbers), reversed(numbers[:-1]), strict=False):
            for move in self._world.moves(self._states[before]):
                if move.state == self._states[after]:
                    lines.append(self._world.told(move.what))
                    break
        return lines

    def _finding(self, problem: str, trace: Sequence[str]) -> Finding:
        return Finding(
            self._world.bounds,
            len(self._states),
            self._move_count,
            len(self._world.documents),
            max(self._depths),
            perf_counter() - self._begun,
            problem,
            trace,
        )
