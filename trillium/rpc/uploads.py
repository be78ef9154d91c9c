"""Uploads: a header that says what comes, then the content in chunks, checked against it.

The messages of such a stream have a oneof `part` of `header` and `chunk`. Every header says the
name, the size and the SHA-256 of what comes; what else it says is its service's own business.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

from trillium.errors import DigestMismatch, InvalidRequest, Violation

MAX_CHUNK_BYTES = 4 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Header(Protocol):
    """What every header says."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


H_co = TypeVar("H_co", bound=Header, covariant=True)


class Part(Protocol[H_co]):
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


async def opening(parts: AsyncIterator[Part[H_co]]) -> tuple[H_co, bytes | None]:
    """The header, not checked yet, and the first chunk; None if no chunk follows.

    Raises InvalidRequest for parts out of place.
    """
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidRequest.of("header", "is missing; the first message must hold it")
    following = await anext(parts, None)
    return first.header, None if following is None else _chunk(following)


def wrong_fields(header: Header, max_bytes: int, *, chunked: bool = True) -> list[Violation]:
    """What is wrong with name, digest and size; the last two must be there only if `chunked`."""
    wrong = wrong_name(header.name)
    if (header.sha256 or chunked) and not _DIGEST.match(header.sha256):
        text = f"is {header.sha256[:70]!r}; 64 lower-case hexadecimal digits are wanted"
        wrong.append(Violation("header.sha256", text))
    if chunked and not 1 <= header.size_bytes <= max_bytes:
        text = f"is {header.size_bytes}; 1 to {max_bytes} bytes allowed"
        wrong.append(Violation("header.size_bytes", text))
    return wrong


async def assembled(
    first: bytes, parts: AsyncIterator[Part[Header]], size: int
) -> tuple[bytes, str]:
    """All chunks as one, and their SHA-256; takes no more than a chunk beyond `size`.

    Raises InvalidRequest for parts out of place and for more or less than `size` bytes.
    """
    content = io.BytesIO(first)  # Answers its bytes without a copy of them all.
    content.seek(len(first))
    digest = hashlib.sha256(first)
    async for part in parts:
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


def _chunk(part: Part[Header]) -> bytes:
    kind = part.WhichOneof("part")
    if kind == "header":
        raise InvalidRequest.of("header", "comes twice; only chunks may follow the first message")
    if kind is None:
        raise InvalidRequest.of("chunk", "is missing; every message after the header holds one")
    if len(part.chunk) > MAX_CHUNK_BYTES:
        text = f"has {len(part.chunk)} bytes; at most {MAX_CHUNK_BYTES} allowed"
        raise InvalidRequest.of("chunk", text)
    return part.chunk
