"""The channel of an asyncio client, which belongs to the event loop of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from trillium.rpc.channels import Access, client_channel

S = TypeVar("S")


class LoopChannel(Generic[S]):
    """A channel and its stubs, made in the loop that first asks for them.

    gRPC ties a channel to a loop for good. So a client may be made before there is a loop, and a
    loop that has ended leaves the next one a channel of its own.
    """

    def __init__(
        self, owner: object, address: str, access: Access, stubs: Callable[[Any], S]
    ) -> None:
        """`owner` is the client, whose class errors name; `access` is how it gets in; `stubs` makes
        what calls are made on."""
        self._name = type(owner).__name__
        self._address = address
        self._access = access
        self._make_stubs = stubs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._stubs: S | None = None

    def stubs(self) -> S:
        """The stubs for the running loop. Raises RuntimeError if there is none, or if calls are
        made in another one that is running."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            text = f"{self._name} is called where no event loop runs: await it in a coroutine"
            raise RuntimeError(text) from error
        if self._stubs is None or loop is not self._loop:
            if self._loop is not None and self._loop.is_running():
                text = f"{self._name} is in use in another event loop that is running"
                raise RuntimeError(f"{text}: make one for each loop")
            self._loop = loop
            self._channel = client_channel(self._address, self._access)
            self._stubs = self._make_stubs(self._channel)
        return self._stubs

    async def close(self) -> None:
        """Close the connection; calls under way end with Cancelled. The next call opens another."""
        channel, loop = self._channel, self._loop
        self._channel = self._stubs = self._loop = None
        # One of a loop that has ended went with it.
        if channel is not None and loop is asyncio.get_running_loop():
            await channel.close()
