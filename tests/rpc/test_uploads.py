"""Uploads share a limited room, and do not keep it for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.waiting import eventually
from trillium.errors import DeadlineExceeded, Overloaded
from trillium.predictor.v1.model_service_pb2 import LoadModelHeader, LoadModelRequest
from trillium.rpc import uploads
from trillium.rpc.uploads import Room


async def taking(room: Room, size: int, order: list[str], name: str, end: asyncio.Event) -> None:
    async with room.taken(size):
        order.append(name)
        await end.wait()


async def test_two_of_the_largest_fit_and_others_wait_in_line() -> None:
    room, order = Room(100), list[str]()
    ends = {name: asyncio.Event() for name in ("a", "b", "large", "small")}
    sizes = {"a": 100, "b": 90, "large": 50, "small": 10}
    async with asyncio.TaskGroup() as group:
        for name, end in ends.items():
            group.create_task(taking(room, sizes[name], order, name, end))
        await eventually(lambda: order == ["a", "b"])
        # The small one would fit, but its turn comes after that of the large one.
        ends["b"].set()
        await eventually(lambda: order == ["a", "b", "large", "small"])
        for end in ends.values():
            end.set()


async def test_who_leaves_the_line_and_who_fails_leaves_the_room_as_it_was() -> None:
    room = Room(100)

    async def failing() -> None:
        async with room.taken(200):
            raise ValueError("in the room")

    with pytest.raises(ValueError, match="in the room"):
        await failing()
    async with room.taken(200):
        waiting = asyncio.ensure_future(failing())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
    async with asyncio.timeout(60), room.taken(200):
        pass


async def test_who_waits_for_long_is_refused_and_told_when_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "WAIT_S", 0.05)
    room = Room(100)
    async with room.taken(150):
        with pytest.raises(Overloaded, match="no room for 51 bytes within") as refusal:
            async with room.taken(51):
                pass
        assert refusal.value.retry_after_s > 0
        async with room.taken(50):
            pass


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_an_upload_that_does_not_go_on_is_over(
    sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SILENCE_S", 0.05)
    header = LoadModelHeader(name="x", sha256="0" * 64, size_bytes=100)

    async def parts() -> AsyncIterator[LoadModelRequest]:
        for message in (LoadModelRequest(header=header), LoadModelRequest(chunk=b"x"))[:sent]:
            yield message
        await asyncio.Event().wait()

    async def received() -> None:
        coming = parts()
        _, first = await uploads.opening(coming)
        assert first is not None
        await uploads.assembled(first, coming, header.size_bytes)

    async with asyncio.timeout(60):
        with pytest.raises(DeadlineExceeded, match="did not go on"):
            await received()
