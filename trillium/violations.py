"""Collects what is wrong with a request, so that its caller can fix everything at once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from trillium.errors import InvalidRequest, Violation

MAX_VIOLATIONS = 20
"""No more are collected of one request: a caller who sees this many looks at the cause."""

T = TypeVar("T")


class Violations:
    """The first `MAX_VIOLATIONS` violations of one request."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """`field` violates what `description` states, as "is 0; expected at least 1"."""
        self.extend((Violation(field, description),))

    def extend(self, more: Iterable[Violation]) -> None:
        """Add those of `more`, which is read no further than there is room."""
        for each in more:
            if len(self._found) == MAX_VIOLATIONS:
                return
            self._found.append(each)

    def check(self, parse: Callable[[], T]) -> T | None:
        """The result of `parse`; None if it raises InvalidRequest, whose violations are added."""
        try:
            return parse()
        except InvalidRequest as error:
            self.extend(error.violations)
            return None

    def raise_any(self) -> None:
        """Raises InvalidRequest with all of them, if there are any."""
        if self._found:
            raise InvalidRequest(self._found)


def check_all(*checks: Callable[[], object]) -> None:
    """Run each of `checks`. Raises InvalidRequest with the violations that all of them raise."""
    violations = Violations()
    for check in checks:
        violations.check(check)
    violations.raise_any()
