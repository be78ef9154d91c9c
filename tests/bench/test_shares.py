"""How the shares of a process are read from its flame graph."""

from __future__ import annotations

import pytest

from bench.shares import REST, shares


def _frame(name: str, level: int, start: int, width: int) -> str:
    text = f"<g><title>{name} ({width:,} samples, 1.00%)</title>"
    return f'{text}<rect x="0%" y="{level}" width="1%" height="15" fg:x="{start}" fg:w="{width}"/>'


def test_a_part_has_the_samples_in_which_its_code_is_on_top() -> None:
    picture = _frame("all", 36, 0, 2000) + _frame(
        "Runner.run (asyncio/runners.py:118)", 52, 0, 2000
    )
    picture += _frame("combine (aggregator/combine.py:5)", 68, 100, 500)
    picture += _frame("_all (numpy/_core/_methods.py:70)", 84, 200, 100)
    found = shares(picture)
    assert found["event loop and gRPC, compiled"] == 0.75
    assert found["Trillium"] == 0.2
    assert found["NumPy"] == 0.05
    assert found[REST] == 0
    assert sum(found.values()) == 1


def test_a_thread_that_waits_for_work_does_not_count() -> None:
    picture = _frame("all", 36, 0, 10) + _frame(
        "_worker (concurrent/futures/thread.py:81)", 52, 0, 5
    )
    picture += _frame("&lt;lambda&gt; (&lt;string&gt;:1)", 52, 5, 5)
    assert shares(picture)[REST] == 1


def test_a_picture_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="without samples"):
        shares("<svg/>")
