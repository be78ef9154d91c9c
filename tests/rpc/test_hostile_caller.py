"""Callers that are no gRPC, or only nearly, before the front on h2corn."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.raw_http2 import GRPC, Answer, Headers, calling
from tests.rpc.toy import CALL_S, NAME, Playing, playing
from tests.waiting import eventually
from trillium.rpc.framing import frame
from trillium.rpc.methods import Limits

MOST = 1000
ONE = f"/{NAME}/One"


@pytest.fixture
async def play() -> AsyncIterator[Playing]:
    async with playing("h2corn", Limits(max_message_bytes=MOST)) as play:
        yield play
        await eventually(lambda: play.front.in_flight == 0)
        # Whatever was said, others are served.
        assert (await play.one(StringValue(value="x"), timeout=CALL_S)).value == "X"


def word(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


async def asked(
    play: Playing,
    body: bytes | None,
    headers: Headers = (),
    *,
    path: str = ONE,
    base: Headers = GRPC,
    method: str = "POST",
    end: bool = True,
) -> Answer:
    async with calling(play.front.addresses[0]) as caller:
        stream = caller.begin(path, headers, base=base, method=method)
        if body is not None:
            caller.send(stream, body, end=end)
        return await caller.answer(stream)


async def test_answer_is_framed_and_has_its_status_in_trailers(play: Playing) -> None:
    answer = await asked(play, frame(word("a")))
    assert answer.body == frame(word("A"))
    assert answer.blocks == 2
    assert answer.headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "0",
    }


MALFORMED: dict[str, tuple[bytes, Headers, int]] = {
    "no message": (b"", (), 12),
    "two messages": (frame(word("a")) * 2, (), 12),
    "not whole": (frame(word("a"))[:-1], (), 13),
    "no flag": (b"\2\0\0\0\0", (), 13),
    "no encoding": (b"\1" + frame(b"junk")[1:], (), 13),
    "no gzip": (b"\1" + frame(b"junk")[1:], (("grpc-encoding", "gzip"),), 13),
    "bomb": (b"\1" + frame(gzip.compress(b"\0" * 9999))[1:], (("grpc-encoding", "gzip"),), 8),
    "unknown encoding": (frame(word("a")), (("grpc-encoding", "zstd"),), 12),
    "no timeout": (frame(word("a")), (("grpc-timeout", "soon"),), 13),
    "no time": (frame(word("hang")), (("grpc-timeout", "0m"),), 4),
    "no protobuf": (frame(b"\xff"), (), 3),
    "too large": (frame(b"x" * (MOST + 1)), (), 3),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_call_has_a_status_and_no_message(play: Playing, case: str) -> None:
    body, headers, status = MALFORMED[case]
    answer = await asked(play, body, headers)
    assert (answer.headers[":status"], answer.headers["grpc-status"]) == ("200", str(status))
    assert (answer.body, answer.blocks) == (b"", 1)
    if status == 12:
        assert answer.headers["grpc-accept-encoding"] == "identity, deflate, gzip"


@pytest.mark.parametrize("path", ["/", "/a/b", f"/{NAME}/Two", f"{ONE}?x=1", f"/{NAME}/%4fne"])
async def test_unknown_path_is_unimplemented(play: Playing, path: str) -> None:
    assert (await asked(play, frame(word("a")), path=path)).headers["grpc-status"] == "12"


async def test_message_beyond_all_limits_is_refused_by_its_head(play: Playing) -> None:
    for size in (4 * MOST + 1, 2**32 - 1):
        answer = await asked(play, b"\0" + size.to_bytes(4, "big"), end=False)
        assert answer.headers["grpc-status"] == "8"


async def test_deadline_ends_a_call_whose_request_never_comes(play: Playing) -> None:
    assert (await asked(play, None, (("grpc-timeout", "50m"),))).headers["grpc-status"] == "4"


@pytest.mark.parametrize(
    ("base", "method", "status"),
    [
        ((("te", "trailers"), ("content-type", "text/plain")), "POST", 415),
        ((("te", "trailers"), ("content-type", "application/grpc-web")), "POST", 415),
        ((("te", "trailers"),), "POST", 415),
        ((("content-type", "application/grpc"),), "POST", 400),
        (GRPC, "GET", 405),
        ((*GRPC, ("x", "y" * 100_000)), "POST", 431),
    ],
)
async def test_what_is_no_grpc_is_refused_by_http(
    play: Playing, base: Headers, method: str, status: int
) -> None:
    answer = await asked(play, frame(word("a")), base=base, method=method)
    assert answer.headers[":status"] == str(status)
    assert answer.body == b""


async def test_request_id_that_is_no_ascii_is_replaced(play: Playing) -> None:
    assert b"\xff" not in (await asked(play, frame(word("id")), (("x-request-id", "ÿ"),))).body


async def test_streams_that_are_reset_at_once_leave_nothing(play: Playing) -> None:
    for _ in range(10):
        async with calling(play.front.addresses[0]) as caller:
            for _ in range(50):
                stream = caller.begin(ONE)
                caller.send(stream, frame(word("hang")), end=False)
                caller.reset(stream)
            caller.send(last := caller.begin(ONE), frame(word("a")))
            assert (await caller.answer(last)).body == frame(word("A"))


@pytest.mark.parametrize("kind", ["One", "Down", "Up", "Both"])
async def test_caller_that_vanishes_cancels_its_calls(play: Playing, kind: str) -> None:
    async with calling(play.front.addresses[0]) as caller:
        for _ in range(20):
            caller.send(caller.begin(f"/{NAME}/{kind}"), frame(word("hang")))
        await eventually(lambda: play.front.in_flight == 20)
    await eventually(lambda: len(play.toy.cancelled) == 20)


async def test_requests_that_nobody_takes_hold_the_caller_back(play: Playing) -> None:
    sent = 0

    async def flood() -> AsyncIterator[StringValue]:
        nonlocal sent
        yield StringValue(value="hang")
        while True:
            yield StringValue(value="x" * MOST)
            sent += 1

    call = play.both(flood(), timeout=CALL_S)
    reading = asyncio.ensure_future(call.read())
    await eventually(play.toy.started.is_set)
    before = -1

    async def stands_still() -> bool:
        nonlocal before
        last, before = before, sent
        await asyncio.wait({reading}, timeout=0.3)
        return last == sent

    await eventually(stands_still)
    assert sent * MOST < 8 * 1024 * 1024
    call.cancel()
    await eventually(lambda: play.toy.cancelled == ["Both"])
    with pytest.raises(asyncio.CancelledError):
        await reading
