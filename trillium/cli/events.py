"""Tells what becomes of deployments while everything is up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from trillium.cli.controller import ControllerCalls
from trillium.errors import TrilliumError

_AGAIN_S = 0.2


async def tell_changes(address: str, ids: Sequence[str], say: Callable[[str], None]) -> None:
    """Say when one of the deployments `ids`, all loaded now, is not loaded any more and when it is
    again; for ever, also past the end of a controller."""
    loaded = dict.fromkeys(ids, True)
    while True:
        with contextlib.suppress(TrilliumError):
            async with (
                ControllerCalls(address) as controller,
                contextlib.aclosing(controller.changes()) as changes,
            ):
                async for each in changes:
                    if each.id not in loaded or loaded[each.id] == each.loaded:
                        continue
                    loaded[each.id] = each.loaded
                    why = f" not loaded: {each.detail}" if each.detail else " not loaded any more"
                    say(f"deployment {each.id} is{' loaded again' if each.loaded else why}")
        await asyncio.sleep(_AGAIN_S)
