"""What is the same about blobs in every store: they are checked, and cut into chunks.

A blob is a number of chunks and, written last, a head with their number: without a head
there is nothing to read. The chunks of a digest are always the same, so one that an interrupted or
a concurrent put left behind is as good as one's own. Until the head is written they expire, so what
an interrupted put leaves is removed in the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta

from .port import StoreError

CHUNK_BYTES = 4 * 2**20
"""Well below the 16 MiB of a MongoDB document, and a write that holds nobody up for long. Written
into existing stores: chunks of another size would not fit together with those."""
MAX_BLOB_BYTES = 2 * 2**30
UNFINISHED_FOR = timedelta(days=1)
"""How long the chunks of an interrupted put stay: far longer than a put takes, and than clocks of
two machines differ."""


def chunks(content: bytes) -> Iterator[memoryview]:
    """`content` in pieces of CHUNK_BYTES; none for no bytes."""
    view = memoryview(content)
    return (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))


def count_chunks(content: bytes) -> int:
    """How many pieces `chunks` makes."""
    return -(-len(content) // CHUNK_BYTES)


def check_digest(digest: str) -> str:
    """`digest`, if it looks like one; ValueError if not."""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"a digest is 64 lower-case hexadecimal digits, not {digest!r:.80}")
    return digest


async def check_content(digest: str, content: bytes) -> None:
    """Raises ValueError if `content` does not have this digest, or is too long to be kept."""
    if len(content) > MAX_BLOB_BYTES:
        raise ValueError(f"{len(content)} bytes are too many; a blob has at most {MAX_BLOB_BYTES}")
    if await _digest(content) != check_digest(digest):
        raise ValueError(f"the content does not have the SHA-256 {digest}")


async def whole(digest: str, pieces: list[bytes]) -> bytes:
    """The pieces as one; StoreError if they are not what was put."""
    content = b"".join(pieces)
    if await _digest(content) != digest:
        raise StoreError(f"the blob {digest} is damaged: its bytes have another SHA-256")
    return content


async def _digest(content: bytes) -> str:
    # In a thread: 2 GiB take a second or more, and hashing lets go of the interpreter.
    return (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
