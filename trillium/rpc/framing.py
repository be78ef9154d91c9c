"""gRPC over HTTP/2 without I/O: messages in frames, timeouts, and texts in headers.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md is what it follows.
"""

from __future__ import annotations

import re
import struct
import zlib
from binascii import b2a_base64
from collections.abc import Iterator
from urllib.parse import quote

from trillium.errors import Code, RemoteError, TrilliumError, Unsupported

ACCEPTED_ENCODINGS = "identity, deflate, gzip"

_HEAD = struct.Struct(">BI")
"""Whether the message is compressed, and its size in bytes."""
_WINDOW_BITS = {"deflate": 15, "gzip": 31}
"""What zlib calls these formats."""
_TIMEOUT = re.compile("([0-9]{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_AS_THEY_ARE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def frame(message: bytes) -> bytes:
    """A message as it stands in the body, uncompressed."""
    return _HEAD.pack(0, len(message)) + message


def timeout_s(text: str) -> float:
    """Seconds of a `grpc-timeout`. Raises RemoteError when it is none."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise RemoteError(Code.INTERNAL, "MALFORMED_TIMEOUT", "grpc-timeout is malformed")
    return int(found[1]) * _UNIT_S[found[2]]


def percent_encoded(text: str) -> bytes:
    """A text as `grpc-message` carries it."""
    return quote(text, safe=_AS_THEY_ARE).encode()


def binary(value: bytes) -> bytes:
    """A value as a header whose name ends in `-bin` carries it."""
    return b2a_base64(value, newline=False).rstrip(b"=")


class Unframer:
    """Cuts the body of a request, as it arrives, into messages.

    It holds no more than one message that is not whole yet, and never more than `most_bytes` of it.
    """

    def __init__(self, encoding: str, most_bytes: int) -> None:
        """`encoding` is the request's `grpc-encoding`. Raises Unsupported for an unknown one."""
        if encoding != "identity" and encoding not in _WINDOW_BITS:
            raise Unsupported(f"grpc-encoding must be one of {ACCEPTED_ENCODINGS}")
        self._encoding = encoding
        self._most_bytes = most_bytes
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The messages that `chunk` completes.

        Raises RemoteError with RESOURCE_EXHAUSTED as soon as a message says that it is too large,
        and with INTERNAL for what is no frame.
        """
        held = self._held
        held += chunk
        while len(held) >= _HEAD.size:
            compressed, size = _HEAD.unpack_from(held)
            end = _HEAD.size + size
            if compressed > 1:
                raise _malformed(f"a frame begins with {compressed}, not with 0 or 1")
            if size > self._most_bytes:
                raise self._too_large()
            if len(held) < end:
                return
            message = bytes(memoryview(held)[_HEAD.size : end])
            del held[:end]
            yield self._inflated(message) if compressed else message

    def end(self) -> None:
        """The body is over. Raises RemoteError when a message is not whole."""
        if self._held:
            raise _malformed("the request ends within a message")

    def _inflated(self, raw: bytes) -> bytes:
        if self._encoding == "identity":
            raise _malformed("a message is compressed, and grpc-encoding does not say how")
        inflater = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            message = inflater.decompress(raw, self._most_bytes + 1)
        except zlib.error as error:
            raise _malformed(f"a message is not {self._encoding}") from error
        if len(message) > self._most_bytes:
            raise self._too_large()
        if not inflater.eof:
            raise _malformed(f"a message of {self._encoding} is not whole")
        return message

    def _too_large(self) -> TrilliumError:
        text = f"a message has more than {self._most_bytes} bytes"
        return RemoteError(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", text)


def _malformed(text: str) -> TrilliumError:
    return RemoteError(Code.INTERNAL, "MALFORMED_FRAME", text)
