"""What gRPC is over HTTP/2, byte by byte."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trillium.errors import Code, TrilliumError, Unsupported
from trillium.rpc.framing import Unframer, binary, frame, percent_encoded, timeout_s

MOST = 1000


def compressed(raw: bytes) -> bytes:
    """A frame whose flag says compressed."""
    return b"\1" + len(raw).to_bytes(4, "big") + raw


def refused(body: bytes, encoding: str = "identity") -> TrilliumError:
    unframer = Unframer(encoding, MOST)
    with pytest.raises(TrilliumError) as caught:
        list(unframer.feed(body))
    return caught.value


@given(st.lists(st.binary(max_size=MOST), max_size=5), st.integers(1, 50))
def test_messages_come_out_however_the_body_is_cut(messages: list[bytes], size: int) -> None:
    body = b"".join(map(frame, messages))
    unframer = Unframer("identity", MOST)
    found = [
        message
        for start in range(0, len(body), size)
        for message in unframer.feed(body[start : start + size])
    ]
    unframer.end()
    assert found == messages


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_and_plain_messages_stand_in_one_body(encoding: str, compress: object) -> None:
    assert callable(compress)
    body = compressed(compress(b"a" * 500)) + frame(b"b")
    assert list(Unframer(encoding, MOST).feed(body)) == [b"a" * 500, b"b"]


def test_message_that_is_too_large_is_refused_by_its_head_alone() -> None:
    for head in (b"\0" + (MOST + 1).to_bytes(4, "big"), b"\0\xff\xff\xff\xff"):
        error = refused(head)
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert list(Unframer("identity", MOST).feed(frame(b"x" * MOST))) == [b"x" * MOST]


def test_message_that_is_too_large_when_inflated_is_refused() -> None:
    bomb = compressed(gzip.compress(b"\0" * 100_000))
    assert len(bomb) < MOST
    assert refused(bomb, "gzip").reason == "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"\2\0\0\0\0", "identity"),
        (compressed(b"x"), "identity"),
        (compressed(b"x"), "gzip"),
        (compressed(gzip.compress(b"x")[:-1]), "gzip"),
        (compressed(gzip.compress(b"x")), "deflate"),
    ],
    ids=["no flag", "no encoding", "no gzip", "not whole", "of another encoding"],
)
def test_malformed_frame_is_refused(body: bytes, encoding: str) -> None:
    error = refused(body, encoding)
    assert (error.code, error.reason) == (Code.INTERNAL, "MALFORMED_FRAME")


@pytest.mark.parametrize("body", [b"\0", frame(b"abc")[:-1]])
def test_body_that_ends_within_a_message_is_refused(body: bytes) -> None:
    unframer = Unframer("identity", MOST)
    assert list(unframer.feed(body)) == []
    with pytest.raises(TrilliumError, match="ends within a message"):
        unframer.end()


def test_unknown_encoding_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(Unsupported, match="identity, deflate, gzip"):
        Unframer("zstd", MOST)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2H", 7200), ("3M", 180), ("5S", 5), ("7m", 0.007), ("11u", 11e-6), ("13n", 13e-9)],
)
def test_timeout_is_read(text: str, seconds: float) -> None:
    assert timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5S ", "\u0665S"]
)
def test_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(TrilliumError, match="grpc-timeout is malformed"):
        timeout_s(text)


def test_message_of_a_status_is_percent_encoded() -> None:
    assert percent_encoded("50 % of {a: 'ü\n'}") == b"50 %25 of {a: '%C3%BC%0A'}"


def test_binary_header_has_no_padding() -> None:
    assert [binary(b"a" * length) for length in range(4)] == [b"", b"YQ", b"YWE", b"YWFh"]
