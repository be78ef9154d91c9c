"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio

import pytest

from trillium.waking import first_of


async def test_what_is_not_waited_for_any_longer_has_ended() -> None:
    ended: list[str] = []

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    await first_of(asyncio.sleep(0), other())
    assert ended == ["other"]
    await first_of(other(), timeout_s=0.001)
    assert ended == ["other"] * 2


async def test_an_error_of_one_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await first_of(fail(), asyncio.Event().wait())
