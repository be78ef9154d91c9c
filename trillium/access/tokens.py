"""Tokens in a file: who they are for, what they allow, and until when. The file holds their
SHA-256, not the tokens, so that whoever reads it can use none of them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from trillium.access.roles import Role

PREFIX = "trillium_"
"""Begins each token, so that scanners of leaked secrets can find them."""
_RANDOM_BYTES = 32
LONGEST_TOKEN = 1024
MOST_BYTES = 2**20
"""Largest file of tokens, room for 4,000."""
_NAME = re.compile("[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


class TokensError(Exception):
    """A file of tokens cannot be used, or a token not be made. Its text is for a person."""


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """What the file has of one token."""

    name: str
    role: Role
    sha256: str
    """Of the token's text, in hexadecimal digits."""
    created: str
    """Time in RFC 3339."""
    expires: str = ""
    """Time in RFC 3339; empty for never."""

    def has_expired(self, now: datetime) -> bool:
        return bool(self.expires) and datetime.fromisoformat(self.expires) <= now


class TokenFile:
    """The tokens in a file, read again whenever the file is another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_as: tuple[int, ...] = ()
        self._by_digest: Mapping[str, TokenEntry] = {}

    def check(self) -> None:
        """Raises TokensError if the file is there and cannot be read."""
        self._refresh()

    def find(self, token: str, now: datetime) -> TokenEntry | None:
        """The entry of a token that is valid at `now`. Raises TokensError."""
        self._refresh()
        # What is compared are digests of 256 random bits: how long that takes shows nothing that
        # helps to find a token.
        found = self._by_digest.get(digest_of(token))
        return None if found is None or found.has_expired(now) else found

    def entries(self) -> Sequence[TokenEntry]:
        """All tokens, in the order of their making. Raises TokensError."""
        self._refresh()
        return tuple(self._by_digest.values())

    def create(
        self, name: str, role: Role, *, now: datetime, lives: timedelta | None = None
    ) -> str:
        """Make a token, and return it: it is not to be had again. Raises TokensError."""
        if _NAME.fullmatch(name) is None:
            allowed = "1 to 63 lower-case letters, digits, dots, hyphens and underscores"
            raise TokensError(f"name {name[:80]!r}: expected {allowed}")
        token = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        until = "" if lives is None else _text(now + lives)
        made = TokenEntry(name, role, digest_of(token), _text(now), until)
        with self._changing() as entries:
            if any(each.name == name for each in entries):
                raise TokensError(f"there is a token {name!r}; revoke it first, or choose a name")
            entries.append(made)
        return token

    def revoke(self, name: str) -> None:
        """Have a token be none. Servers know it with the next call. Raises TokensError."""
        with self._changing() as entries:
            left = [each for each in entries if each.name != name]
            if len(left) == len(entries):
                known = ", ".join(each.name for each in entries) or "none"
                raise TokensError(f"there is no token {name[:80]!r}; there are: {known}")
            entries[:] = left

    def _refresh(self) -> None:
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                read_as = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
                if read_as == self._read_as:
                    return
                if facts.st_mode & 0o077:
                    text = f"{self.path} can be read by others; chmod 600 {self.path}"
                    raise TokensError(text)
                self._by_digest = {each.sha256: each for each in _parsed(file.read(MOST_BYTES + 1))}
                self._read_as = read_as
        except FileNotFoundError:
            self._by_digest, self._read_as = {}, ()
        except OSError as error:
            raise TokensError(f"cannot read {self.path}: {error.strerror}") from error
        except ValueError as error:
            raise TokensError(f"{self.path} is no file of tokens: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[list[TokenEntry]]:
        """The entries, to be changed; written in one step afterwards, while all others wait."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                self.path.with_name(f"{self.path.name}.lock"),
                os.O_CREAT | os.O_RDWR | os.O_CLOEXEC,
                0o600,
            )
        except OSError as error:
            raise TokensError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = list(self.entries())
            yield entries
            self._write(entries)
        finally:
            os.close(lock)

    def _write(self, entries: Sequence[TokenEntry]) -> None:
        content = json.dumps({"tokens": [asdict(each) for each in entries]}, indent=1).encode()
        if len(content) > MOST_BYTES:
            raise TokensError(f"{self.path} would be larger than {MOST_BYTES} bytes")
        try:
            # A file of its own, 0600 from its first moment, takes the old one's place.
            descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except OSError as error:
            raise TokensError(f"cannot write {self.path}: {error.strerror}") from error


def digest_of(token: str) -> str:
    """The SHA-256 of a token's text, in hexadecimal digits."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def read_token(path: Path) -> str:
    """The token that is alone in a file. Raises TokensError."""
    try:
        text = path.read_text().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TokensError(f"cannot read the token file {path}: {reason}") from error
    if not (
        text.isascii() and text.isprintable() and 0 < len(text) <= LONGEST_TOKEN and " " not in text
    ):
        raise TokensError(f"the token file {path} must hold one token, and nothing else")
    return text


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _parsed(raw: bytes) -> Iterator[TokenEntry]:
    """Raises ValueError."""
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES} bytes")
    content: Any = json.loads(raw)
    listed = content.get("tokens") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it has no list of tokens")
    for each in listed:
        try:
            entry = TokenEntry(**{**each, "role": Role(each["role"])})
            entry.has_expired(datetime.now(UTC))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"an entry is not complete: {error}") from error
        yield entry
