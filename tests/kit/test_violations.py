"""Violations of one request are collected, up to a limit, and raised together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trillium.errors import InvalidRequest, Violation
from trillium.violations import MAX_VIOLATIONS, Violations


def test_all_are_raised_together() -> None:
    violations = Violations()
    violations.add("name", "is empty")
    violations.extend([Violation("count", "is 0; expected at least 1")])
    assert violations.check(lambda: 7) == 7
    assert violations.check(lambda: _refuse("label")) is None
    with pytest.raises(InvalidRequest) as raised:
        violations.raise_any()
    assert [each.field for each in raised.value.violations] == ["name", "count", "label"]


def test_nothing_is_raised_without_any() -> None:
    violations = Violations()
    violations.raise_any()
    assert not violations


def test_no_more_are_searched_for_than_are_kept() -> None:
    searched = []

    def search() -> Iterator[Violation]:
        for number in range(10**9):
            searched.append(number)
            yield Violation("rows", str(number))

    violations = Violations()
    violations.add("name", "is empty")
    violations.extend(search())
    assert violations
    assert len(searched) == MAX_VIOLATIONS
    with pytest.raises(InvalidRequest) as raised:
        violations.raise_any()
    assert len(raised.value.violations) == MAX_VIOLATIONS


def _refuse(field: str) -> int:
    raise InvalidRequest.of(field, "is wrong")
