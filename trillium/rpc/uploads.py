"""Uploads: a header that describes the content, then the content in chunks, checked against it.

The messages of such a stream have a oneof `part` of `header` and `chunk`. Every header has
the name, the size and the SHA-256 of the content; its other fields are up to the service.
A service has one `Room` for all uploads that it works on at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from trillium.errors import DeadlineExceeded, DigestMismatch, InvalidRequest, Overloaded, Violation
from trillium.waking import Bell

MAX_CHUNK_BYTES = 4 * 1024 * 1024
SILENCE_S = 60.0
"""The next message of an upload comes within this time, or the upload is over."""
WAIT_S = 30.0
"""Maximum time an upload waits for room: longer than most take, shorter than callers wait."""
_RETRY_AFTER_S = 5.0

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Header(Protocol):
    """What every header has."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


H_co = TypeVar("H_co", bound=Header, covariant=True)


class UploadPart(Protocol[H_co]):
    """One message of an upload."""

    @property
    def header(self) -> H_co: ...

    @property
    def chunk(self) -> bytes: ...

    def WhichOneof(self, oneof_group: Any) -> str | None: ...  # noqa: N802 (protobuf's name)


def is_name(name: str) -> bool:
    """Whether `name` may name what is uploaded: letters, digits, '.', '_', '-', at most 128, no
    leading dot. Nothing else, so that a name is never a path."""
    return _NAME.match(name) is not None


def wrong_name(name: str) -> list[Violation]:
    """What is wrong with the name in a header."""
    if is_name(name):
        return []
    allowed = "letters, digits, '.', '_' and '-', 1 to 128 of them, not starting with '.'"
    return [Violation("header.name", f"is {name[:140]!r}; allowed: {allowed}")]


class Room:
    """The memory that uploads may take together; who finds too little waits in line, unread.

    There is room for two of the largest, so that one that comes slowly holds up nobody.
    """

    def __init__(self, largest: int) -> None:
        """`largest` is the size of the largest upload in bytes."""
        self._free = 2 * largest
        self._freed = Bell()
        self._line = asyncio.Lock()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Have that many bytes of it inside the context. Raises Overloaded when they are not free
        within `WAIT_S`."""
        try:
            async with asyncio.timeout(WAIT_S), self._line:
                while self._free < size:
                    await self._freed.next().wait()
                self._free -= size
        except TimeoutError:
            text = f"other uploads left no room for {size} bytes within {WAIT_S:g} s"
            raise Overloaded(text, retry_after_s=_RETRY_AFTER_S) from None
        try:
            yield
        finally:
            self._free += size
            self._freed.ring()


async def opening(parts: AsyncIterator[UploadPart[H_co]]) -> tuple[H_co, bytes | None]:
    """The header, not checked yet, and the first chunk; None if no chunk follows.

    Raises InvalidRequest for parts out of place, and DeadlineExceeded as `assembled` does.
    """
    first = await _next(parts)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidRequest.of("header", "is missing; the first message must hold it")
    following = await _next(parts)
    return first.header, None if following is None else _chunk(following)


def wrong_fields(header: Header, max_bytes: int, *, chunked: bool = True) -> list[Violation]:
    """What is wrong with name, digest and size; the last two must be there only if `chunked`."""
    wrong = wrong_name(header.name)
    if (header.sha256 or chunked) and not _DIGEST.match(header.sha256):
        text = f"is {header.sha256[:70]!r}; expected 64 lower-case hexadecimal digits"
        wrong.append(Violation("header.sha256", text))
    if chunked and not 1 <= header.size_bytes <= max_bytes:
        text = f"is {header.size_bytes}; 1 to {max_bytes} bytes allowed"
        wrong.append(Violation("header.size_bytes", text))
    return wrong


async def assembled(
    first: bytes, parts: AsyncIterator[UploadPart[Header]], size: int
) -> tuple[bytes, str]:
    """All chunks as one, and their SHA-256; takes no more than a chunk beyond `size`.

    Raises InvalidRequest for parts out of place and for more or less than `size` bytes, and
    DeadlineExceeded when no part comes for `SILENCE_S`.
    """
    content = io.BytesIO(first)  # Answers its bytes without a copy of them all.
    content.seek(len(first))
    digest = hashlib.sha256(first)
    while (part := await _next(parts)) is not None:
        chunk = _chunk(part)
        content.write(chunk)
        digest.update(chunk)
        if content.tell() > size:
            break
    held = content.tell()
    if held != size:
        comparison = "more than" if held > size else f"{held} of"
        text = f"is {size}, but the chunks hold {comparison} that many bytes"
        raise InvalidRequest.of("header.size_bytes", text)
    return content.getvalue(), digest.hexdigest()


def check_digest(what: str, digest: str, announced: str) -> None:
    """Raises DigestMismatch unless `what` has the digest that was announced for it."""
    if digest != announced:
        raise DigestMismatch(f"{what} has SHA-256 {digest}; {announced} announced")


async def _next(parts: AsyncIterator[UploadPart[H_co]]) -> UploadPart[H_co] | None:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(parts, None)
    except TimeoutError:
        raise DeadlineExceeded(f"the upload did not go on for {SILENCE_S:g} s") from None


def _chunk(part: UploadPart[Header]) -> bytes:
    kind = part.WhichOneof("part")
    if kind == "header":
        raise InvalidRequest.of("header", "comes twice; only chunks may follow the first message")
    if kind is None:
        raise InvalidRequest.of("chunk", "is missing; every message after the header holds one")
    if len(part.chunk) > MAX_CHUNK_BYTES:
        text = f"has {len(part.chunk)} bytes; at most {MAX_CHUNK_BYTES} allowed"
        raise InvalidRequest.of("chunk", text)
    return part.chunk
